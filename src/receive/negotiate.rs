//! Association policy as a pure function: A-ASSOCIATE-RQ, who calls and the options in -> accept with contexts, or reject with
//! a reason out. Source: PS3.8 section 9.3.4 and table 9-21 (rejections), 9.3.3.2 (presentation contexts), PS3.7 section D.3 (user items).

use std::collections::BTreeSet;
use std::net::IpAddr;

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason, AssociationRJServiceUserReason,
    AssociationRJSource, AssociationRQ, PresentationContextResult, PresentationContextResultReason, UserVariableItem,
};

use crate::domain::{AeTitle, CertificateSha256};

use super::options::ReceiveOptions;
use super::roles::Roles;
use super::sop_classes::{
    IMPLICIT_LITTLE_ENDIAN, STORAGE_COMMITMENT, VERIFICATION, choose_service_transfer_syntax, choose_transfer_syntax,
    choose_unread_syntax, is_service_class, is_storage_class,
};

/// Our Implementation Class UID (PS3.7 section D.3.3.2), derived from a UUID (PS3.5 section B.2).
pub const IMPLEMENTATION_CLASS_UID: &str = "2.25.259331704819838872930790898416226441597";
/// Our Implementation Version Name, at most 16 characters.
pub const IMPLEMENTATION_VERSION_NAME: &str = "SCANSIDE_1";
/// The only application context there is (PS3.7 annex A).
const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Odd numbers from 1 to 255 (PS3.8 table 9-13).
const CONTEXTS_MAX: usize = 128;

/// Who calls, as far as the connection tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// From where.
    pub address: IpAddr,
    /// The certificate that it proved to hold; `None` without TLS, or when it showed none.
    pub certificate_sha256: Option<CertificateSha256>,
}

impl From<IpAddr> for Caller {
    fn from(address: IpAddr) -> Self {
        Self { address, certificate_sha256: None }
    }
}

/// One accepted presentation context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedContext {
    /// Its number, odd.
    pub id: u8,
    /// SOP class.
    pub abstract_syntax: String,
    /// Transfer syntax.
    pub transfer_syntax: &'static str,
}

/// An association that may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Who calls.
    pub calling_ae_title: AeTitle,
    /// The contexts; may be empty: then the peer sees each refusal and releases.
    pub contexts: Vec<AcceptedContext>,
    /// Longest PDU that the peer takes; 0 for no limit.
    pub peer_pdu_length_max: u32,
    /// Whether nothing but C-ECHO was proposed.
    pub verification_only: bool,
    /// What to answer.
    pub reply: AssociationAC,
    /// SOP classes that were proposed and refused, with the reason.
    pub refused: Vec<(String, &'static str)>,
}

/// Why an association was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectedBecause {
    /// Not version 1 of the protocol.
    ProtocolVersion,
    /// Not DICOM's application context.
    ApplicationContext,
    /// The peer called us by another title; `None` when what it called is no title at all.
    CalledAeTitle(Option<AeTitle>),
    /// The peer's title is not on the list; `None` when it is no title at all.
    CallingAeTitle(Option<AeTitle>),
    /// The peer's address is not on the list.
    PeerAddress,
    /// No `[[dicom.peer]]` is of this title.
    PeerUnknown(AeTitle),
    /// Those of this title come from other addresses.
    PeerElsewhere(AeTitle),
    /// Those of this title and address are bound to a certificate, and the peer showed none.
    PeerWithoutCertificate(AeTitle),
    /// Those of this title and address are bound to another certificate.
    PeerCertificate(AeTitle),
    /// Presentation context numbers that are even, repeated or too many.
    Contexts,
    /// Too many associations.
    LocalLimit,
}

impl RejectedBecause {
    /// A sentence with the remedy.
    #[must_use]
    pub fn sentence(&self, options: &ReceiveOptions) -> String {
        match self {
            Self::ProtocolVersion => "it does not speak version 1 of the DICOM upper layer".to_owned(),
            Self::ApplicationContext => "it proposed another application context than DICOM's".to_owned(),
            Self::CalledAeTitle(Some(called)) => {
                format!("it called \"{called}\", but our title is \"{}\": correct one of them", options.ae_title)
            }
            Self::CalledAeTitle(None) => format!("it called no valid title; ours is \"{}\"", options.ae_title),
            Self::CallingAeTitle(Some(calling)) => {
                format!("its title \"{calling}\" is not among dicom.calling_ae_titles")
            }
            Self::CallingAeTitle(None) => "it gave no valid title of its own".to_owned(),
            Self::PeerAddress => "its address is not among dicom.peers".to_owned(),
            Self::PeerUnknown(calling) => format!("its title \"{calling}\" has no [[dicom.peer]]: add one, or correct the title"),
            Self::PeerElsewhere(calling) => {
                format!("its address is not among those of [[dicom.peer]] \"{calling}\": add it, if it is that sender")
            }
            Self::PeerWithoutCertificate(calling) => {
                format!(
                    "[[dicom.peer]] \"{calling}\" is bound to a certificate and this one showed none: it must send to the TLS port, with it"
                )
            }
            Self::PeerCertificate(calling) => {
                format!(
                    "its certificate is not that of [[dicom.peer]] \"{calling}\": correct certificate_sha256, if it was renewed"
                )
            }
            Self::Contexts => "its presentation contexts are numbered against the standard".to_owned(),
            Self::LocalLimit => "too many associations are open; it may try again later".to_owned(),
        }
    }

    /// The A-ASSOCIATE-RJ to send.
    #[must_use]
    pub fn pdu(&self) -> AssociationRJ {
        use AssociationRJServiceUserReason as User;
        let source = match self {
            Self::ProtocolVersion => {
                AssociationRJSource::ServiceProviderASCE(AssociationRJServiceProviderASCEReason::ProtocolVersionNotSupported)
            }
            Self::ApplicationContext => AssociationRJSource::ServiceUser(User::ApplicationContextNameNotSupported),
            Self::CalledAeTitle(_) => AssociationRJSource::ServiceUser(User::CalledAETitleNotRecognized),
            Self::CallingAeTitle(_)
            | Self::PeerUnknown(_)
            | Self::PeerElsewhere(_)
            | Self::PeerWithoutCertificate(_)
            | Self::PeerCertificate(_) => AssociationRJSource::ServiceUser(User::CallingAETitleNotRecognized),
            Self::PeerAddress | Self::Contexts => AssociationRJSource::ServiceUser(User::NoReasonGiven),
            Self::LocalLimit => AssociationRJSource::ServiceProviderPresentation(
                dicom_ul::pdu::AssociationRJServiceProviderPresentationReason::LocalLimitExceeded,
            ),
        };
        let result = if *self == Self::LocalLimit { AssociationRJResult::Transient } else { AssociationRJResult::Permanent };
        AssociationRJ { result, source }
    }
}

/// Decides on a request.
///
/// # Errors
/// [`RejectedBecause`], whose [`RejectedBecause::pdu`] is the answer.
pub fn decide(request: AssociationRQ, caller: impl Into<Caller>, options: &ReceiveOptions) -> Result<Accepted, RejectedBecause> {
    let caller = caller.into();
    if request.protocol_version & 1 == 0 {
        return Err(RejectedBecause::ProtocolVersion);
    }
    if request.application_context_name.trim_end_matches(['\0', ' ']) != APPLICATION_CONTEXT {
        return Err(RejectedBecause::ApplicationContext);
    }
    if !options.peers_allowed.is_empty() && !options.peers_allowed.iter().any(|net| net.contains(caller.address)) {
        return Err(RejectedBecause::PeerAddress);
    }
    let called = AeTitle::try_new(&request.called_ae_title).ok();
    if options.called_ae_title_checked && called.as_ref() != Some(&options.ae_title) {
        return Err(RejectedBecause::CalledAeTitle(called));
    }
    let calling = AeTitle::try_new(&request.calling_ae_title).map_err(|_| RejectedBecause::CallingAeTitle(None))?;
    if !options.calling_ae_titles_allowed.is_empty() && !options.calling_ae_titles_allowed.contains(&calling) {
        return Err(RejectedBecause::CallingAeTitle(Some(calling)));
    }
    if !options.peer_rules.is_empty() {
        match_rules(&calling, &caller, options)?;
    }
    let proposed = &request.presentation_contexts;
    let mut seen = [false; 256];
    let numbered =
        proposed.iter().all(|context| context.id % 2 == 1 && !std::mem::replace(&mut seen[usize::from(context.id)], true));
    if !numbered || proposed.len() > CONTEXTS_MAX {
        return Err(RejectedBecause::Contexts);
    }
    Ok(accept(request, calling, options))
}

/// A UID without its padding.
fn uid_of(text: &str) -> &str {
    text.trim_end_matches(['\0', ' '])
}

/// Whether a rule is of this title, address and certificate; if not, how far the nearest one goes along.
fn match_rules(calling: &AeTitle, caller: &Caller, options: &ReceiveOptions) -> Result<(), RejectedBecause> {
    let of_title = || options.peer_rules.iter().filter(|rule| rule.ae_title == *calling);
    let of_address = || of_title().filter(|rule| rule.addresses.iter().any(|net| net.contains(caller.address)));
    let fits = |pin: Option<CertificateSha256>| pin.is_none() || pin == caller.certificate_sha256;
    if of_address().any(|rule| fits(rule.certificate_sha256)) {
        return Ok(());
    }
    let calling = calling.clone();
    Err(match (of_title().next(), of_address().next(), caller.certificate_sha256) {
        (None, _, _) => RejectedBecause::PeerUnknown(calling),
        (Some(_), None, _) => RejectedBecause::PeerElsewhere(calling),
        (Some(_), Some(_), None) => RejectedBecause::PeerWithoutCertificate(calling),
        (Some(_), Some(_), Some(_)) => RejectedBecause::PeerCertificate(calling),
    })
}

fn accept(request: AssociationRQ, calling_ae_title: AeTitle, options: &ReceiveOptions) -> Accepted {
    let (mut contexts, mut results, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut verification_only = !request.presentation_contexts.is_empty();
    // SOP classes for which the peer offers something that can be decoded here, in whatever context.
    let readable: BTreeSet<String> = request
        .presentation_contexts
        .iter()
        .filter(|context| choose_transfer_syntax(&context.transfer_syntaxes).is_some())
        .map(|context| uid_of(&context.abstract_syntax).to_owned())
        .collect();
    let roles = Roles::proposed(&request.user_variables);
    for context in request.presentation_contexts {
        let abstract_syntax = uid_of(&context.abstract_syntax);
        let is_verification = abstract_syntax == VERIFICATION;
        verification_only &= is_verification;
        let is_service =
            is_service_class(abstract_syntax) && (options.storage_commitment || abstract_syntax != STORAGE_COMMITMENT);
        let known = is_verification
            || is_service
            || is_storage_class(abstract_syntax)
            || options.sop_classes_extra.iter().any(|extra| extra == abstract_syntax);
        let unread = || if readable.contains(abstract_syntax) { None } else { choose_unread_syntax(&context.transfer_syntaxes) };
        let chosen = if is_service {
            choose_service_transfer_syntax(&context.transfer_syntaxes)
        } else {
            choose_transfer_syntax(&context.transfer_syntaxes).or_else(unread)
        };
        let user_asked = roles.asks_us_to_be_user(abstract_syntax);
        let (reason, transfer_syntax) = match (known, chosen) {
            (false, _) => (PresentationContextResultReason::AbstractSyntaxNotSupported, IMPLICIT_LITTLE_ENDIAN),
            (true, _) if user_asked => (PresentationContextResultReason::UserRejection, IMPLICIT_LITTLE_ENDIAN),
            (true, None) => (PresentationContextResultReason::TransferSyntaxesNotSupported, IMPLICIT_LITTLE_ENDIAN),
            (true, Some(chosen)) => (PresentationContextResultReason::Acceptance, chosen),
        };
        match reason {
            PresentationContextResultReason::Acceptance => {
                contexts.push(AcceptedContext { id: context.id, abstract_syntax: abstract_syntax.to_owned(), transfer_syntax });
            }
            // What a peer calls an abstract syntax is only named if it is a UID: nothing else belongs into a log.
            _ => refused.push((
                crate::domain::Uid::try_new(abstract_syntax).map_or_else(|_| "an invalid UID".to_owned(), |uid| uid.to_string()),
                match (known, user_asked) {
                    (false, _) => "the SOP class is not accepted here",
                    (true, true) => "the peer wants to be the provider (SCP) of it, and so are we",
                    (true, false) => "none of its transfer syntaxes can be read here",
                },
            )),
        }
        results.push(PresentationContextResult { id: context.id, reason, transfer_syntax: transfer_syntax.to_owned() });
    }
    let peer_pdu_length_max = request
        .user_variables
        .iter()
        .find_map(|item| if let UserVariableItem::MaxLength(length) = item { Some(*length) } else { None })
        .unwrap_or(0);
    let mut user_variables = vec![
        UserVariableItem::MaxLength(options.pdu_length_clamped()),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.to_owned()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.to_owned()),
    ];
    user_variables.extend(roles.answers(contexts.iter().map(|context| context.abstract_syntax.as_str())));
    let reply = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title,
        called_ae_title: request.called_ae_title,
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: results,
        user_variables,
    };
    Accepted { calling_ae_title, contexts, peer_pdu_length_max, verification_only, reply, refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dicom_ul::pdu::{Pdu, PresentationContextProposed, write_pdu};

    const MR: &str = "1.2.840.10008.5.1.4.1.1.4";

    fn request(contexts: &[(u8, &str, &[&str])]) -> AssociationRQ {
        AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "MR1             ".to_owned(),
            called_ae_title: "SCANSIDE        ".to_owned(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts: contexts
                .iter()
                .map(|(id, abstract_syntax, syntaxes)| PresentationContextProposed {
                    id: *id,
                    abstract_syntax: (*abstract_syntax).to_owned(),
                    transfer_syntaxes: syntaxes.iter().map(|uid| (*uid).to_owned()).collect(),
                })
                .collect(),
            user_variables: vec![UserVariableItem::MaxLength(131_072)],
        }
    }

    fn peer() -> IpAddr {
        "10.1.2.3".parse().unwrap()
    }

    /// Result, source and reason bytes of the rejection on the wire (PS3.8 table 9-21).
    fn rejection(request: AssociationRQ, options: &ReceiveOptions) -> [u8; 3] {
        let because = decide(request, peer(), options).unwrap_err();
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &Pdu::AssociationRJ(because.pdu())).unwrap();
        assert!(!because.sentence(options).is_empty());
        [bytes[7], bytes[8], bytes[9]]
    }

    #[test]
    fn rejections_carry_the_codes_of_the_standard() {
        let options = ReceiveOptions::default();
        let good = || request(&[(1, MR, &[IMPLICIT_LITTLE_ENDIAN])]);
        assert_eq!(rejection(AssociationRQ { called_ae_title: "OTHER".to_owned(), ..good() }, &options), [1, 1, 7]);
        assert_eq!(rejection(AssociationRQ { calling_ae_title: "  ".to_owned(), ..good() }, &options), [1, 1, 3]);
        assert_eq!(rejection(AssociationRQ { protocol_version: 2, ..good() }, &options), [1, 2, 2]);
        assert_eq!(rejection(AssociationRQ { application_context_name: "1.2".to_owned(), ..good() }, &options), [1, 1, 2]);
        let closed = ReceiveOptions { calling_ae_titles_allowed: vec![AeTitle::try_new("MR2").unwrap()], ..options.clone() };
        assert_eq!(rejection(good(), &closed), [1, 1, 3]);
        let far = ReceiveOptions { peers_allowed: vec!["192.168.0.0/16".parse().unwrap()], ..options.clone() };
        assert_eq!(rejection(good(), &far), [1, 1, 1]);
        for numbers in [&[(2, MR, &[IMPLICIT_LITTLE_ENDIAN][..])][..], &[(1, MR, &[]), (1, MR, &[])]] {
            assert_eq!(rejection(request(numbers), &options), [1, 1, 1]);
        }
        let busy = RejectedBecause::LocalLimit.pdu();
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &Pdu::AssociationRJ(busy)).unwrap();
        assert_eq!(bytes[7..10], [2, 3, 2]);
    }

    #[test]
    fn peer_must_match_one_rule_in_title_and_address_and_certificate() {
        let pin = |byte| CertificateSha256::new([byte; 32]);
        let rule = |title: &str, net: &str, certificate_sha256| super::super::options::PeerRule {
            ae_title: AeTitle::try_new(title).unwrap(),
            addresses: vec![net.parse().unwrap()],
            certificate_sha256,
        };
        let rules = vec![
            rule("MR1", "10.1.2.0/24", None),
            rule("MR2", "10.1.2.3", Some(pin(1))),
            rule("MR2", "10.9.9.9", None),
            rule("MR3", "10.9.9.9", None),
        ];
        let options = ReceiveOptions { peer_rules: rules, ..ReceiveOptions::default() };
        let ask = |title: &str, certificate_sha256| {
            let request = AssociationRQ { calling_ae_title: title.to_owned(), ..request(&[]) };
            decide(request, Caller { address: peer(), certificate_sha256 }, &options).map(|_| ())
        };
        let title = |text: &str| AeTitle::try_new(text).unwrap();
        assert_eq!(ask("MR1", None), Ok(()));
        assert_eq!(ask("MR1", Some(pin(9))), Ok(()), "a certificate more does no harm");
        assert_eq!(ask("MR2", Some(pin(1))), Ok(()));
        assert_eq!(ask("MR2", None), Err(RejectedBecause::PeerWithoutCertificate(title("MR2"))), "nor by the plain port");
        assert_eq!(ask("MR2", Some(pin(2))), Err(RejectedBecause::PeerCertificate(title("MR2"))));
        assert_eq!(ask("MR3", Some(pin(1))), Err(RejectedBecause::PeerElsewhere(title("MR3"))));
        assert_eq!(ask("mr1", None), Err(RejectedBecause::PeerUnknown(title("mr1"))), "titles are compared as they are");
        let older = ReceiveOptions { calling_ae_titles_allowed: vec![title("MR2")], ..options.clone() };
        assert_eq!(rejection(request(&[]), &older), [1, 1, 3], "the older lists hold as well");
        assert_eq!(rejection(AssociationRQ { calling_ae_title: "MR9".to_owned(), ..request(&[]) }, &options), [1, 1, 3]);
    }

    #[test]
    fn any_title_is_called_when_checking_is_off() {
        let open = ReceiveOptions { called_ae_title_checked: false, ..ReceiveOptions::default() };
        let other = AssociationRQ { called_ae_title: "OTHER".to_owned(), ..request(&[]) };
        assert!(decide(other, peer(), &open).is_ok());
    }

    #[test]
    fn storage_commitment_is_negotiated_only_where_the_site_has_turned_it_on() {
        use super::super::sop_classes::{INSTANCE_AVAILABILITY, PROCEDURE_STEP};
        let results = |options: &ReceiveOptions| -> Vec<u8> {
            let proposed = request(&[
                (1, PROCEDURE_STEP, &["1.2.840.10008.1.2.4.70", IMPLICIT_LITTLE_ENDIAN]),
                (3, INSTANCE_AVAILABILITY, &["1.2.840.10008.1.2.4.70"]),
                (5, STORAGE_COMMITMENT, &[IMPLICIT_LITTLE_ENDIAN]),
            ]);
            let accepted = decide(proposed, peer(), options).unwrap();
            accepted.reply.presentation_contexts.iter().map(|c| c.reason.clone() as u8).collect()
        };
        assert_eq!(results(&ReceiveOptions::default()), [0, 4, 3]);
        assert_eq!(results(&ReceiveOptions { storage_commitment: true, ..ReceiveOptions::default() }), [0, 4, 0]);
    }

    #[test]
    fn roles_are_answered_for_accepted_classes_alone() {
        use dicom_ul::pdu::RequestorRoles;
        let mut proposed = request(&[(1, MR, &[IMPLICIT_LITTLE_ENDIAN]), (3, VERIFICATION, &[IMPLICIT_LITTLE_ENDIAN])]);
        let role =
            |class: &str, scu, scp| UserVariableItem::ScuScpRoleSelectionSubItem(class.to_owned(), RequestorRoles { scu, scp });
        proposed.user_variables.extend([role(MR, true, true), role("1.2.3", true, true), role(VERIFICATION, false, true)]);
        let accepted = decide(proposed, peer(), &ReceiveOptions::default()).unwrap();
        let codes: Vec<_> = accepted.reply.presentation_contexts.iter().map(|c| c.reason.clone() as u8).collect();
        assert_eq!(codes, [0, 1], "who asks us to be the user of a class is refused it");
        let roles: Vec<_> = accepted
            .reply
            .user_variables
            .iter()
            .filter(|v| matches!(v, UserVariableItem::ScuScpRoleSelectionSubItem(..)))
            .collect();
        assert_eq!(roles, [&role(MR, true, false)]);
    }

    #[test]
    fn contexts_are_judged_one_by_one() {
        let options = ReceiveOptions { sop_classes_extra: vec!["1.2.3.4".to_owned()], ..ReceiveOptions::default() };
        let accepted = decide(
            request(&[
                (1, VERIFICATION, &[IMPLICIT_LITTLE_ENDIAN]),
                (3, MR, &["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1"]),
                (5, MR, &["1.2.840.10008.1.2.4.80"]),
                (7, "1.2.840.10008.5.1.4.1.2.2.1", &[IMPLICIT_LITTLE_ENDIAN]),
                (9, "1.2.3.4", &[IMPLICIT_LITTLE_ENDIAN]),
            ]),
            peer(),
            &options,
        )
        .unwrap();
        let codes: Vec<_> = accepted.reply.presentation_contexts.iter().map(|c| (c.id, c.reason.clone() as u8)).collect();
        assert_eq!(codes, [(1, 0), (3, 0), (5, 4), (7, 3), (9, 0)]);
        assert_eq!(accepted.contexts[1].transfer_syntax, "1.2.840.10008.1.2.1");
        assert_eq!((accepted.refused.len(), accepted.verification_only, accepted.peer_pdu_length_max), (2, false, 131_072));
        // JPEG-LS is kept only from a peer that offers nothing readable for the class, in any context.
        let unread =
            decide(request(&[(1, MR, &["1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.80"])]), peer(), &options).unwrap();
        assert_eq!(unread.contexts[0].transfer_syntax, "1.2.840.10008.1.2.4.80");
        let echo = decide(request(&[(1, VERIFICATION, &[IMPLICIT_LITTLE_ENDIAN])]), peer(), &options).unwrap();
        assert!(echo.verification_only);
    }
}
