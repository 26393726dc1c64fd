//! What a hospital can rely on when DICOM comes over TLS: who gets in, who does not and is told why, and certificates that change meanwhile.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(unreachable_pub, dead_code)] // support modules are private to this test, which needs a part of them

#[path = "receive_support/mod.rs"]
mod support;
#[path = "../src/receive/test_data.rs"]
mod test_data;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use scanside::domain::{AeTitle, CertificateSha256, WallTime};
use scanside::receive::{Listeners, PeerRule, ReceiveOptions, TlsFiles, TlsKeeper, TlsStanding};
use sha2::Digest;
use support::{AT_ONCE, Peer, Server, VERIFICATION, association_request, clock, command, p_data, read_pdu};
use test_data::{DataSet, EXPLICIT_LE, IMPLICIT_LE, MR_IMAGE};

const ECHO: &[(u8, &str, &str)] = &[(1, VERIFICATION, IMPLICIT_LE)];

fn wall() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    WallTime(since.as_millis() as i64)
}

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate with its key.
#[derive(Clone)]
struct Identity {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

impl Identity {
    fn pin(&self) -> CertificateSha256 {
        CertificateSha256::new(sha2::Sha256::digest(&self.der).into())
    }
}

fn params(name: &str, years: (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params
}

impl Authority {
    fn new(name: &str, years: (i32, i32)) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), params(name, years));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn signs(&self, name: &str, years: (i32, i32), usage: ExtendedKeyUsagePurpose) -> Identity {
        let (key, mut params) = (KeyPair::generate().unwrap(), params(name, years));
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() }
    }

    fn client(&self, name: &str) -> Identity {
        self.signs(name, (2024, 2090), ExtendedKeyUsagePurpose::ClientAuth)
    }
}

fn self_signed(name: &str, years: (i32, i32)) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params(name, years).self_signed(&key).unwrap();
    Identity { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() }
}

/// A box with certificates in a folder of its own, a plain and a TLS listener.
struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
    keeper: Arc<TlsKeeper>,
    server: Server,
    tls: SocketAddr,
}

fn write_key(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

struct Clients {
    authority: bool,
    pins: Vec<CertificateSha256>,
    required: bool,
}

impl Site {
    /// A site whose one authority signs box and clients; `clients` says whom it takes.
    fn new(clients: Clients, options: ReceiveOptions) -> Self {
        let authority = Authority::new("Hospital CA", (2024, 2090));
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let own = authority.signs("box", (2024, 2090), ExtendedKeyUsagePurpose::ServerAuth);
        std::fs::write(at("box.pem"), &own.pem).unwrap();
        write_key(&at("box.key"), &own.key_pem);
        std::fs::write(at("ca.pem"), &authority.pem).unwrap();
        let files = TlsFiles {
            certificate_file: at("box.pem"),
            key_file: at("box.key"),
            client_ca_file: clients.authority.then(|| at("ca.pem")),
            client_pins: clients.pins,
            client_required: clients.required,
        };
        let [plain, secure] = [(); 2].map(|()| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let (address, tls) = (plain.local_addr().unwrap(), secure.local_addr().unwrap());
        let mut kept = None;
        let server = Server::start_listening(options, clock, address, |journal| {
            let keeper = Arc::new(TlsKeeper::open(files, journal.clone(), wall));
            kept = Some(Arc::clone(&keeper));
            let from = |listener| tokio::net::TcpListener::from_std(listener).unwrap();
            Listeners { plain: Some(from(plain)), tls: Some((from(secure), keeper)) }
        });
        Self { folder, authority, keeper: kept.unwrap(), server, tls }
    }

    fn with_authority() -> Self {
        Self::new(Clients { authority: true, pins: vec![], required: true }, ReceiveOptions::default())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A C-ECHO over TLS; the server's certificate, or why it failed.
    fn echo(&self, identity: Option<&Identity>) -> Result<CertificateDer<'static>, String> {
        self.echo_with(identity, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    fn echo_with(
        &self,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<CertificateDer<'static>, String> {
        let mut stream = self.connect(identity, versions);
        let answer = associate(&mut stream, "TESTER", ECHO)?;
        assert_eq!(answer.0, 2, "accepted");
        let certificate = stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
        stream.write_all(&p_data(1, 3, &command(0x0030, 1, VERIFICATION, None, false))).unwrap();
        let (kind, body) = read_pdu(&mut stream).ok_or("no answer")?;
        assert!(kind == 4 && body.windows(10).any(|w| w == [0, 0, 0, 9, 2, 0, 0, 0, 0, 0]), "status 0x0000");
        stream.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
        assert_eq!(read_pdu(&mut stream).map(|(kind, _)| kind), Some(6));
        Ok(certificate)
    }

    fn connect(
        &self,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                use rustls::pki_types::pem::PemObject;
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![identity.der.clone()], key).unwrap()
            }
        };
        let name = ServerName::try_from("box").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), Peer::connect(self.tls))
    }

    fn has_line(&self, needle: &str) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if self.server.journal.recent().iter().any(|line| line.text.contains(needle)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no line with {needle:?}: {:#?}", self.server.journal.recent());
    }
}

/// Asks for an association; the answer's kind and body.
fn associate(stream: &mut (impl Read + Write), calling: &str, contexts: &[(u8, &str, &str)]) -> Result<(u8, Vec<u8>), String> {
    stream.write_all(&association_request(calling, "SCANSIDE", contexts)).map_err(|error| error.to_string())?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).map_err(|error| error.to_string())?;
    let mut rest = std::io::Cursor::new(first).chain(stream);
    read_pdu(&mut rest).ok_or_else(|| "cut".to_owned())
}

#[test]
fn only_a_client_that_our_authority_signed_gets_in_and_each_other_one_is_told_why() {
    let site = Site::with_authority();
    let good = site.authority.client("MR1");
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        site.echo_with(Some(&good), versions).expect("the right client");
    }
    let rogue = Authority::new("Rogue CA", (2024, 2090)).client("MR1");
    let expired = site.authority.signs("MR1", (2015, 2020), ExtendedKeyUsagePurpose::ClientAuth);
    let early = site.authority.signs("MR1", (2080, 2090), ExtendedKeyUsagePurpose::ClientAuth);
    let server = site.authority.signs("MR1", (2024, 2090), ExtendedKeyUsagePurpose::ServerAuth);
    let own = self_signed("MR1", (2024, 2090));
    let cases = [
        (None, "it showed no certificate"),
        (Some(&rogue), "no authority in dicom.tls.client_ca_file"),
        (Some(&own), "no authority in dicom.tls.client_ca_file"),
        (Some(&expired), "its certificate has ended"),
        (Some(&early), "its certificate has not begun"),
        (Some(&server), "clientAuth"),
    ];
    for (n, (identity, because)) in cases.into_iter().enumerate() {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let began = Instant::now();
            let error = site.echo_with(identity, versions).expect_err(because);
            assert!(began.elapsed() < AT_ONCE, "refused at once: {error}");
        }
        assert!(site.has_line(because));
        site.server.wait_for("HandshakeFailed", 2 * (n as u64 + 1));
    }
    site.echo(Some(&good)).expect("and the right one still gets in");
}

#[test]
fn pinned_certificate_needs_no_authority_but_its_time_counts() {
    let scanner = self_signed("MR1", (2024, 2090));
    let old = self_signed("MR2", (2015, 2020));
    let clients = Clients { authority: false, pins: vec![scanner.pin(), old.pin()], required: true };
    let site = Site::new(clients, ReceiveOptions::default());
    site.echo(Some(&scanner)).expect("pinned");
    site.echo(Some(&self_signed("MR1", (2024, 2090)))).expect_err("the same name is not the same certificate");
    assert!(site.has_line("none of those in dicom.tls.client_certificates_sha256"));
    site.echo(Some(&old)).expect_err("its time is over");
    assert!(site.has_line("its certificate has ended"));
    site.echo(None).expect_err("one must be shown");
    site.echo(Some(&site.authority.client("MR1"))).expect_err("signed, but not pinned");
}

#[test]
fn pin_and_authority_must_both_hold_when_both_are_set() {
    let mut site = Site::with_authority();
    let (pinned, other) = (site.authority.client("MR1"), site.authority.client("MR2"));
    let files = TlsFiles {
        certificate_file: site.file("box.pem"),
        key_file: site.file("box.key"),
        client_ca_file: Some(site.file("ca.pem")),
        client_pins: vec![pinned.pin(), self_signed("MR3", (2024, 2090)).pin()],
        client_required: true,
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    site.tls = listener.local_addr().unwrap();
    site.server = Server::start_listening(ReceiveOptions::default(), clock, site.tls, |journal| {
        let keeper = Arc::new(TlsKeeper::open(files, journal.clone(), wall));
        Listeners { plain: None, tls: Some((tokio::net::TcpListener::from_std(listener).unwrap(), keeper)) }
    });
    site.echo(Some(&pinned)).expect("signed and pinned");
    site.echo(Some(&other)).expect_err("signed alone");
}

#[test]
fn whole_instances_pass_under_either_version() {
    let site = Site::with_authority();
    let client = site.authority.client("MR1");
    for (version, uid) in [(&rustls::version::TLS12, "1.2.3.12"), (&rustls::version::TLS13, "1.2.3.13")] {
        let mut stream = site.connect(Some(&client), &[version]);
        let (kind, _) = associate(&mut stream, "MR1", &[(1, MR_IMAGE, EXPLICIT_LE)]).expect("an answer");
        assert_eq!(kind, 2);
        let data_set = DataSet::explicit().mr_image(uid, 700).bytes; // 980 kB: several buffers, sixty records
        stream.write_all(&p_data(1, 3, &command(0x0001, 7, MR_IMAGE, Some(uid), true))).unwrap();
        let n = data_set.chunks(30_001).count();
        for (idx, fragment) in data_set.chunks(30_001).enumerate() {
            stream.write_all(&p_data(1, if idx + 1 == n { 2 } else { 0 }, fragment)).unwrap();
        }
        let (_, body) = read_pdu(&mut stream).expect("a response");
        assert!(body.windows(10).any(|w| w == [0, 0, 0, 9, 2, 0, 0, 0, 0, 0]), "status 0x0000");
        assert_eq!(site.server.store.committed.lock().unwrap().get(uid), Some(&data_set));
        stream.write_all(&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0]).unwrap();
        assert_eq!(read_pdu(&mut stream).map(|(kind, _)| kind), Some(6));
        assert_eq!(stream.read(&mut [0; 1]).map_err(|e| e.kind()), Ok(0), "and the end is said as TLS wants it");
    }
    site.server.wait_for("AssociationReleased", 2);
}

#[test]
fn what_is_no_tls_is_closed_at_once_with_the_reason() {
    let site = Site::with_authority();
    let hello = |version: [u8; 2], suite: [u8; 2], extensions: &[u8]| {
        let mut body = [&version[..], &[7; 32], &[0, 0, 2], &suite, &[1, 0]].concat();
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(extensions);
        let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
    };
    // signature_algorithms with ecdsa_secp256r1_sha256, supported_groups with x25519 (RFC 8446 section 4.2).
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 29];
    let cases = [
        (association_request("MR1", "SCANSIDE", ECHO), "it does not speak TLS"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "it does not speak TLS"),
        (hello([3, 2], [0, 0x2F], &extensions), "neither TLS 1.2 nor 1.3"),
        (hello([3, 3], [0, 0x2F], &extensions), "no cipher suite with forward secrecy"),
    ];
    for (bytes, because) in cases {
        let mut stream = Peer::connect(site.tls);
        stream.write_all(&bytes).unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(began.elapsed() < AT_ONCE, "{because}");
        assert!(answer.first().is_none_or(|first| *first == 21), "an alert or nothing, no fall-back: {answer:?}");
        assert!(site.has_line(because));
    }
    site.echo(Some(&site.authority.client("MR1"))).expect("the listener goes on");
}

#[test]
fn stalled_handshakes_and_half_hellos_keep_nobody_out() {
    let site = Site::with_authority();
    let client = site.authority.client("MR1");
    let mut held: Vec<TcpStream> = (0..50).map(|_| Peer::connect(site.tls)).collect();
    for stream in &mut held[..25] {
        stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]).unwrap(); // a ClientHello's head, and no more
    }
    let began = Instant::now();
    site.echo(Some(&client)).expect("the good one");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    held.extend((0..300).map(|_| Peer::connect(site.tls)));
    site.echo(Some(&client)).expect("beyond the bound the oldest silent ones go");
    assert!(site.server.answers_echo(), "on the plain port, too: they share the table");
}

#[test]
fn handshake_has_the_deadline_of_the_request() {
    let options = ReceiveOptions { association_request_timeout_s: 1, ..ReceiveOptions::default() };
    let site = Site::new(Clients { authority: true, pins: vec![], required: true }, options);
    let mut silent = Peer::connect(site.tls);
    let began = Instant::now();
    let _ = silent.read_to_end(&mut Vec::new());
    assert!((Duration::from_millis(500)..AT_ONCE).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(site.has_line("TLS handshake was not done in time"));
    // One that drips its hello, and one that shakes hands and then says nothing.
    let mut dripper = Peer::connect(site.tls);
    let began = Instant::now();
    while dripper.write_all(&[22]).is_ok() && began.elapsed() < AT_ONCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() < AT_ONCE);
    let mut quiet = site.connect(Some(&site.authority.client("MR1")), &[&rustls::version::TLS12]);
    quiet.conn.complete_io(&mut quiet.sock).unwrap();
    let began = Instant::now();
    let answer = read_pdu(&mut quiet);
    assert!(began.elapsed() < AT_ONCE, "the handshake earns no second deadline");
    assert!(answer.is_none_or(|(kind, _)| kind == 7), "A-ABORT or the end");
}

#[test]
fn new_certificate_is_taken_up_without_a_restart_and_a_broken_one_is_not() {
    let site = Site::with_authority();
    let client = site.authority.client("MR1");
    let first = site.echo(Some(&client)).expect("with the first");
    assert_eq!(site.keeper.look(), TlsStanding::default());
    let renewed = site.authority.signs("box", (2024, 2091), ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(site.file("box.pem"), &renewed.pem).unwrap();
    let halfway = site.keeper.look();
    assert_eq!(halfway, TlsStanding::default(), "half a replacement is not judged at once");
    write_key(&site.file("box.key"), &renewed.key_pem);
    site.keeper.look();
    assert_eq!(site.keeper.look(), TlsStanding::default());
    let second = site.echo(Some(&client)).expect("with the second");
    assert!(second == renewed.der && second != first);

    let look_twice = || {
        site.keeper.look();
        site.keeper.look()
    };
    let broken = |needle: &str| {
        let standing = look_twice();
        assert!(standing.not_loaded.as_deref().is_some_and(|text| text.contains(needle)), "{needle}: {standing:?}");
        assert_eq!(standing.unusable, None);
        assert_eq!(site.echo(Some(&client)).as_ref(), Ok(&renewed.der), "{needle}: the one before still serves");
    };
    std::fs::write(site.file("box.pem"), &renewed.pem[..100]).unwrap();
    broken("box.pem");
    std::fs::write(site.file("box.pem"), self_signed("box", (2024, 2090)).pem).unwrap();
    broken("is not the key of");
    std::fs::write(site.file("box.pem"), &renewed.pem).unwrap();
    write_key(&site.file("box.key"), "no key");
    broken("box.key");
    std::fs::remove_file(site.file("box.key")).unwrap();
    broken("cannot be read");
    write_key(&site.file("box.key"), &renewed.key_pem);
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(site.file("box.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    broken("chmod 600");
    assert!(site.has_line("The new certificate files cannot be used, the ones before still serve"));
    write_key(&site.file("box.key"), &renewed.key_pem);
    assert_eq!(look_twice(), TlsStanding::default(), "a changed mode is seen like changed bytes");
    std::fs::write(site.file("ca.pem"), "nothing").unwrap();
    broken("ca.pem");
}

#[test]
fn certificates_that_end_soon_or_cannot_serve_are_told() {
    let site = Site::with_authority();
    let put = |identity: &Identity| {
        std::fs::write(site.file("box.pem"), &identity.pem).unwrap();
        write_key(&site.file("box.key"), &identity.key_pem);
        site.keeper.look();
        site.keeper.look()
    };
    let expired = put(&site.authority.signs("box", (2015, 2020), ExtendedKeyUsagePurpose::ServerAuth));
    assert!(expired.unusable.as_deref().is_some_and(|text| text.contains("2020-01-01")), "{expired:?}");
    let early = put(&site.authority.signs("box", (2080, 2090), ExtendedKeyUsagePurpose::ServerAuth));
    assert!(early.unusable.as_deref().is_some_and(|text| text.contains("check the clock")), "{early:?}");
    let (key, mut soon) = (KeyPair::generate().unwrap(), params("box", (2024, 2090)));
    soon.not_after = std::time::SystemTime::now().checked_add(Duration::from_secs(10 * 86_400)).unwrap().into();
    let certificate = soon.signed_by(&key, &site.authority.issuer).unwrap();
    let ending = put(&Identity { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() });
    assert!(
        ending.expiring.as_deref().is_some_and(|text| text.contains("in 9 days") || text.contains("in 10 days")),
        "{ending:?}"
    );
    assert_eq!(ending.unusable, None);
    site.echo(Some(&site.authority.client("MR1"))).expect("it serves to its last second");
    // An authority whose time is over vouches for nobody.
    let old = Authority::new("Old CA", (2015, 2020));
    std::fs::write(site.file("ca.pem"), &old.pem).unwrap();
    site.keeper.look();
    let standing = site.keeper.look();
    assert!(standing.unusable.as_deref().is_some_and(|text| text.contains("client_ca_file")), "{standing:?}");
    site.echo(Some(&old.client("MR1"))).expect_err("signed by an authority that has ended");
}

#[test]
fn box_without_a_certificate_refuses_tls_serves_plain_and_mends_itself() {
    let site = Site::with_authority();
    let (pem, key) = (std::fs::read(site.file("box.pem")).unwrap(), site.file("box.key"));
    std::fs::remove_file(site.file("box.pem")).unwrap();
    let files = TlsFiles {
        certificate_file: site.file("box.pem"),
        key_file: key,
        client_ca_file: None,
        client_pins: vec![],
        client_required: false,
    };
    let keeper = TlsKeeper::open(files, site.server.journal.clone(), wall);
    let standing = keeper.look();
    assert!(standing.unusable.as_deref().is_some_and(|text| text.contains("box.pem")), "{standing:?}");
    assert!(site.server.answers_echo());
    std::fs::write(site.file("box.pem"), pem).unwrap();
    keeper.look();
    assert_eq!(keeper.look(), TlsStanding::default());
}

#[test]
fn title_bound_to_a_certificate_comes_with_it_or_not_at_all() {
    let scanner = self_signed("MR1", (2024, 2090));
    let router = self_signed("ROUTER", (2024, 2090));
    let rule = |title: &str, certificate_sha256| PeerRule {
        ae_title: AeTitle::try_new(title).unwrap(),
        addresses: vec!["127.0.0.0/8".parse().unwrap()],
        certificate_sha256,
    };
    let options = ReceiveOptions {
        peer_rules: vec![rule("MR1", Some(scanner.pin())), rule("OLD", None), rule("ROUTER", Some(router.pin()))],
        ..ReceiveOptions::default()
    };
    // As the service sets it when nothing but the blocks names certificates: a client may come without one.
    let clients = Clients { authority: false, pins: vec![scanner.pin(), router.pin()], required: false };
    let site = Site::new(clients, options);
    let ask = |identity: Option<&Identity>, title: &str| {
        let mut stream = site.connect(identity, &[&rustls::version::TLS13]);
        associate(&mut stream, title, ECHO).map(|(kind, body)| (kind, if kind == 3 { body[1..4].to_vec() } else { vec![] }))
    };
    let rejected = Ok((3, vec![1, 1, 3]));
    assert_eq!(ask(Some(&scanner), "MR1"), Ok((2, vec![])));
    assert_eq!(ask(None, "OLD"), Ok((2, vec![])));
    assert_eq!(ask(None, "MR1"), rejected);
    assert!(site.has_line("bound to a certificate and this one showed none"));
    assert_eq!(ask(Some(&router), "MR1"), rejected, "one known peer cannot pass for another");
    assert!(site.has_line("its certificate is not that of"));
    assert_eq!(ask(Some(&scanner), "CT1"), rejected);
    assert!(site.has_line("has no [[dicom.peer]]"));
    let mut plain = Peer::connect(site.server.address);
    let answer = associate(&mut plain, "MR1", ECHO).map(|(kind, body)| (kind, body[1..4].to_vec()));
    assert_eq!(answer, rejected, "nor by the plain port");
}

#[test]
fn both_listeners_share_the_bound_on_associations() {
    let clients = Clients { authority: true, pins: vec![], required: true };
    let site = Site::new(clients, ReceiveOptions { associations_max: 3, ..ReceiveOptions::default() });
    let contexts = &[(1, MR_IMAGE, EXPLICIT_LE)][..];
    let client = site.authority.client("MR1");
    let begin = command(0x0001, 7, MR_IMAGE, Some("1.2.3.4"), true);
    let mut plain: Vec<_> = (0..2).map(|_| Peer::associate(site.server.address, "SCANSIDE", contexts).unwrap()).collect();
    plain.iter_mut().for_each(|peer| peer.send_command(1, &begin));
    let mut secure = site.connect(Some(&client), &[&rustls::version::TLS13]);
    assert_eq!(associate(&mut secure, "MR1", contexts).unwrap().0, 2);
    secure.write_all(&p_data(1, 3, &begin)).unwrap();
    assert_eq!(Peer::associate(site.server.address, "SCANSIDE", contexts).err(), Some([2, 3, 2]));
    let mut late = site.connect(Some(&client), &[&rustls::version::TLS13]);
    let (kind, body) = associate(&mut late, "MR1", contexts).unwrap();
    assert_eq!((kind, &body[1..4]), (3, &[2, 3, 2][..]), "rejected as transient, under TLS, too");
    site.echo(Some(&client)).expect("C-ECHO has places of its own");
}

#[test]
fn peer_that_closes_without_a_farewell_is_a_closed_peer() {
    let site = Site::with_authority();
    let mut stream = site.connect(Some(&site.authority.client("MR1")), &[&rustls::version::TLS13]);
    assert_eq!(associate(&mut stream, "MR1", ECHO).unwrap().0, 2);
    stream.sock.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    site.server.wait_for("AssociationBroken", 1);
    assert!(site.has_line("the peer closed the connection"));
}
