-- Schema 1. Times are milliseconds since 1970-01-01T00:00:00Z. Texts from peers are values here, never part of a statement.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('format', 'scanside.spool/1');

-- One row per study, kept for ever; n_instances falls to 0 when it is evicted.
CREATE TABLE studies (
    id INTEGER PRIMARY KEY,
    study_instance_uid TEXT NOT NULL UNIQUE,
    accession_number TEXT,
    received_at INTEGER NOT NULL,
    last_received_at INTEGER NOT NULL,
    last_number INTEGER NOT NULL,          -- highest instance number: the order of arrival, whatever the clock did
    n_instances INTEGER NOT NULL,
    n_conflicts INTEGER NOT NULL,
    n_covered INTEGER NOT NULL,            -- instances that the latest verdict has seen
    evicted_at INTEGER,
    verdict_number INTEGER,                -- the latest verdict
    standing_rank INTEGER NOT NULL,        -- most urgent flagged verdict ever: 3 critical, 2 suspicious, 0 none
    open_rank INTEGER NOT NULL,            -- greater of standing_rank and the latest verdict's rank (1 = indeterminate)
    acknowledged_rank INTEGER NOT NULL     -- open_rank when last acknowledged; below open_rank = waits for somebody
) STRICT;
CREATE INDEX studies_by_arrival ON studies (last_number);
CREATE INDEX studies_unacknowledged ON studies (open_rank) WHERE open_rank > acknowledged_rank;

CREATE TABLE instances (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- also the file's name
    study_id INTEGER NOT NULL REFERENCES studies (id),
    sop_instance_uid TEXT NOT NULL UNIQUE,
    n_bytes INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX instances_by_study ON instances (study_id, number);

CREATE TABLE conflicts (
    number INTEGER PRIMARY KEY,            -- from the same counter as instances; also the file's name
    instance_number INTEGER NOT NULL REFERENCES instances (number),
    study_id INTEGER NOT NULL REFERENCES studies (id),
    n_bytes INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX conflicts_by_instance ON conflicts (instance_number);
CREATE INDEX conflicts_by_study ON conflicts (study_id);

CREATE TABLE verdicts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    study_id INTEGER NOT NULL REFERENCES studies (id),
    supersedes INTEGER REFERENCES verdicts (number),
    kind TEXT NOT NULL,
    urgency TEXT,
    score REAL,
    n_instances INTEGER NOT NULL,
    decided_at INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;
CREATE INDEX verdicts_by_study ON verdicts (study_id, number);

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    study_id INTEGER NOT NULL REFERENCES studies (id),
    verdict_number INTEGER NOT NULL REFERENCES verdicts (number),
    channel TEXT NOT NULL,
    idempotency_key TEXT NOT NULL UNIQUE,
    body TEXT,                             -- NULL once delivered: the verdict itself is kept in verdicts
    attempts INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    next_attempt_at INTEGER NOT NULL,
    last_error TEXT,
    delivered_at INTEGER
) STRICT;
CREATE INDEX outbox_waiting ON outbox (next_attempt_at, id) WHERE delivered_at IS NULL;
CREATE INDEX outbox_by_study ON outbox (study_id, id);

CREATE TABLE acknowledgements (
    id INTEGER PRIMARY KEY,
    study_id INTEGER NOT NULL REFERENCES studies (id),
    verdict_number INTEGER NOT NULL REFERENCES verdicts (number),
    acknowledged_by TEXT NOT NULL,
    acknowledged_at INTEGER NOT NULL
) STRICT;
CREATE INDEX acknowledgements_by_study ON acknowledgements (study_id, id);
