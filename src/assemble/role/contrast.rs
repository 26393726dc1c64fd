//! Contrast agents: the agent tag, and hints in descriptions of several languages.

/// What a description says about contrast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// Nothing.
    None,
    /// Given.
    After,
    /// Not given, or not yet.
    Before,
}

/// Values of the agent tag that mean no agent, after lower-casing and trimming; or a text that begins with one of these words.
const NO_AGENT: [&str; 19] = [
    "no", "none", "non", "n/a", "na", "nil", "null", "not", "without", "w/o", "ohne", "sans", "sin", "senza", "kein", "keine",
    "aucun", "nein", "unknown",
];

/// Words that say that contrast was given.
const AFTER: [&str; 36] = [
    "km",
    "mkm",
    "gd",
    "gad",
    "gado",
    "gadolinium",
    "post",
    "postcontrast",
    "contrast",
    "contraste",
    "contrasto",
    "kontrast",
    "kontrastmittel",
    "mdc",
    "ce",
    "cm",
    "pc",
    "injecte",
    "injected",
    "inj",
    "enhanced",
    "gadovist",
    "gadobutrol",
    "dotarem",
    "dota",
    "magnevist",
    "multihance",
    "prohance",
    "primovist",
    "eovist",
    "clariscan",
    "omniscan",
    "vueway",
    "elucirem",
    "gadavist",
    "gadoterate",
];

/// Words that say that it was not; they win.
const BEFORE: [&str; 30] = [
    "pre",
    "prae",
    "pré",
    "prä",
    "precontrast",
    "nativ",
    "native",
    "natif",
    "nativo",
    "ohne",
    "okm",
    "sans",
    "sin",
    "senza",
    "without",
    "wo",
    "non",
    "no",
    "noncontrast",
    "nc",
    "unenhanced",
    "zonder",
    "vor",
    "avant",
    "antes",
    "prima",
    "plain",
    "bez",
    "uten",
    "utan",
];

/// Scripts without spaces: what stands in the text.
const AFTER_IN_TEXT: [&str; 7] = ["+c", "c+", "造影", "増強", "增强", "조영", "контраст"];
/// As above, not given; wins.
const BEFORE_IN_TEXT: [&str; 8] = ["w/o", "造影前", "非造影", "単純", "平扫", "平掃", "조영전", "без"];

/// Whether the text of the agent tag names an agent. An agent item without a name counts: the scanner says that one was given.
pub(super) fn is_agent(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    if text == "agent without a name" {
        return true; // what the header scan writes for an enhanced object's agent item without a name
    }
    let first = text.split([' ', ',', ';', '_']).next().unwrap_or_default();
    text.chars().any(char::is_alphabetic) && !NO_AGENT.contains(&first)
}

/// Lower-case words: runs of letters; digits and signs separate.
pub(super) fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What descriptions and protocol names of one series say together.
pub(super) fn hint<'a>(texts: impl Iterator<Item = &'a str>) -> Hint {
    let mut found = Hint::None;
    for text in texts {
        let lower = text.to_lowercase();
        let words = words(text);
        let any_word = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
        if any_word(&BEFORE) || BEFORE_IN_TEXT.iter().any(|part| lower.contains(part)) {
            return Hint::Before;
        }
        let is_after = any_word(&AFTER)
            || words.iter().any(|word| word.starts_with("gado") || word.starts_with("kontrast"))
            || AFTER_IN_TEXT.iter().any(|part| lower.contains(part));
        if is_after {
            found = Hint::After;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_tags_that_name_nothing_are_no_agent() {
        for text in ["NONE", "No", "n/a", "N/A", " ", "without contrast", "ohne KM", "-", "0", "no contrast given"] {
            assert!(!is_agent(text), "{text:?}");
        }
        for text in ["Gadobutrol", "GADOVIST 10 ml", "DOTAREM", "agent without a name", "CONTRAST", "Gd-DTPA", "yes"] {
            assert!(is_agent(text), "{text:?}");
        }
    }

    #[test]
    fn descriptions_hint_in_several_languages_and_a_negation_wins() {
        let of = |text: &str| hint([text].into_iter());
        for text in [
            "+C Ax T1",
            "t1_mprage_sag_p2_iso_KM",
            "3D T1W TFE GADO",
            "造影後 T1",
            "AX T1 POST",
            "T1 gado 3D",
            "sT1W_3D_TFE+Gd",
            "T1post",
        ] {
            assert_eq!(of(text), Hint::After, "{text:?}");
        }
        for text in
            ["T1 pre contrast", "T1 ohne KM", "T1 sans gado", "T1 w/o contrast", "造影前 T1", "T1 nativ", "T1 without contrast"]
        {
            assert_eq!(of(text), Hint::Before, "{text:?}");
        }
        for text in ["t1_mprage_sag_p2_iso", "Ax T1 FSPGR", "FLAIR", "", "T1 posterior fossa"] {
            assert_eq!(of(text), Hint::None, "{text:?}");
        }
    }
}
