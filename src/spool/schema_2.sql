-- Schema 2: what peers say and ask beside images. UIDs and states only, no patient data.
-- Performed procedure steps (PS3.4 annex F); bounded in rows and bytes, the oldest go first.
CREATE TABLE procedure_steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,                  -- defined term of (0040,0252)
    series TEXT NOT NULL,                  -- one line per series: its UID, then the UIDs of its instances, with spaces between
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE procedure_step_studies (
    step_id INTEGER NOT NULL REFERENCES procedure_steps (id) ON DELETE CASCADE,
    study_instance_uid TEXT NOT NULL,
    PRIMARY KEY (step_id, study_instance_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX procedure_step_studies_by_study ON procedure_step_studies (study_instance_uid);

-- Storage commitment requests with their answers (PS3.4 annex J).
CREATE TABLE commitments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    transaction_uid TEXT NOT NULL,
    requester TEXT NOT NULL,               -- AE title
    items TEXT,                            -- one line per instance: class, instance, failure reason (0: committed); NULL once done with
    n_instances INTEGER NOT NULL,
    n_failed INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    requested_at INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,
    last_error TEXT,
    delivered_at INTEGER,
    given_up_at INTEGER,
    UNIQUE (requester, transaction_uid)
) STRICT;
CREATE INDEX commitments_waiting ON commitments (next_attempt_at, id) WHERE delivered_at IS NULL AND given_up_at IS NULL;

-- Studies with committed instances: not evicted before spool.commitment_hold_days have passed.
CREATE TABLE commitment_holds (
    study_id INTEGER PRIMARY KEY REFERENCES studies (id),
    committed_at INTEGER NOT NULL
) STRICT;
