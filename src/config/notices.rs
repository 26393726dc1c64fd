//! What of a valid configuration people must be told: a [`Config`] in -> sentences for the page and the start, and every address, out.

use super::{Config, ConfigNotice, PacsConfig, access};

impl Config {
    /// What is allowed but must be said on the page and at start.
    #[must_use]
    pub fn notices(&self) -> Vec<ConfigNotice> {
        let mut notices = access::notices(self);
        let mut add = |key: &str, text: String| notices.push(ConfigNotice { key: key.to_owned(), text });
        if self.dicom.storage_commitment {
            add(
                "dicom.storage_commitment",
                format!(
                    "This box answers storage commitment and keeps committed images for {} days, then it may evict them: it is no \
                     archive, and a scanner must not delete its images because this box has them.",
                    self.spool.commitment_hold_days
                ),
            );
        }
        super::web::notices(&self.web, &mut add);
        super::alerts::notices(&self.alerts, &mut add);
        if let Some(pacs) = &self.pacs {
            self.add_pacs_notices(pacs, &mut add);
        }
        notices
    }

    fn add_pacs_notices(&self, pacs: &PacsConfig, add: &mut impl FnMut(&str, String)) {
        let address = pacs.address.as_str();
        if !pacs.address.is_loopback() {
            add("pacs.address", format!("Questions to the PACS at {address} and its images travel in plain text."));
            if self.dicom.listen.ip().is_loopback() {
                let text = format!("The PACS at {address} cannot send to this box, which listens on {} only.", self.dicom.listen);
                add("dicom.listen", text);
            }
        }
        if !self.dicom.calling_ae_titles.is_empty() && !self.dicom.calling_ae_titles.contains(&pacs.ae_title) {
            let text = format!(
                "Images that the PACS sends as {} are refused unless it calls itself otherwise: add it to dicom.calling_ae_titles.",
                pacs.ae_title
            );
            add("dicom.calling_ae_titles", text);
        }
        if !self.dicom.peer.is_empty() && !self.dicom.peer.iter().any(|peer| peer.ae_title == pacs.ae_title) {
            let text = format!("Images that the PACS sends as {} are refused: add a [[dicom.peer]] for it.", pacs.ae_title);
            add("dicom.peer", text);
        }
    }

    /// Every address that the box listens on or calls, with its purpose (DESIGN.md rule 10).
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, String)> {
        let mut list = Vec::new();
        if self.dicom.plain {
            list.push((format!("listens on {}", self.dicom.listen), "DICOM studies from scanners".to_owned()));
        }
        if let Some(tls) = &self.dicom.tls {
            list.push((format!("listens on {}", tls.listen), "DICOM studies from scanners, over TLS".to_owned()));
        }
        list.push((format!("listens on {}", self.web.listen), "this page".to_owned()));
        for peer in &self.dicom.peer {
            if let Some(call) = peer.call {
                list.push((format!("calls {call}"), format!("answers of storage commitments to {}", peer.ae_title)));
            }
        }
        list.extend(super::alerts::addresses(&self.alerts));
        if let Some(pacs) = &self.pacs {
            list.push((format!("calls {}", pacs.address.as_str()), format!("the PACS {}, for missing series", pacs.ae_title)));
        }
        list
    }
}
