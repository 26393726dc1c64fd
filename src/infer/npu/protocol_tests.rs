//! Tests of the worker's language: what is written is what is read, and nothing else is.

use super::*;
use proptest::prelude::*;

fn setup() -> Setup {
    let q = |scale, zero_point| Quantisation { scale, zero_point };
    Setup {
        runtime_library: "/opt/runtime.so".to_owned(),
        provider_library: Some("/opt/provider.so".to_owned()),
        provider: "QNN".to_owned(),
        options: vec![("backend_type".to_owned(), "htp".to_owned())],
        threads: 2,
        shapes: Shapes { n_in: 2, n_out: 6, shape_kji: [3, 4, 5], input: q(0.5, -26), output: q(2.0, 3) },
        network: vec![7; 99],
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let payload = setup().encode();
    assert_eq!(Setup::decode(&payload).expect("a setup"), setup());
    let ready = Ready { runtime: "1.28.0".to_owned(), provider: "QNN".to_owned(), device: "NPU Qualcomm".to_owned() };
    assert_eq!(Ready::decode(&ready.encode()).expect("a ready"), ready);
    let mut stream = Vec::new();
    write_frame(&mut stream, Kind::Run, &[&number_head(9), &[1, 2]]).expect("fits");
    let frame = read_frame(&mut stream.as_slice(), &[(Kind::Run, 10)]).expect("a frame");
    assert_eq!(numbered(&frame.payload, 2), Some((9, &[1, 2][..])));
    assert_eq!(numbered(&frame.payload, 3), None);
}

#[test]
fn a_frame_longer_than_expected_is_refused_before_its_bytes_are_kept() {
    let header = [b'S', b'N', VERSION, Kind::Answer as u8, 255, 255, 255, 255];
    let error = read_frame(&mut header.as_slice(), &[(Kind::Answer, 18)]).expect_err("too long");
    assert!(matches!(error, ProtocolError::TooLong { bytes: 4_294_967_295, bytes_max: 18 }), "{error}");
    let error = read_frame(&mut header.as_slice(), &[(Kind::Ready, 18)]).expect_err("not expected");
    assert!(matches!(error, ProtocolError::Nonsense(_)), "{error}");
}

#[test]
fn a_name_with_markup_or_a_line_feed_is_refused_and_made_plain_when_written() {
    let bad = |name: &str| {
        let mut payload = Vec::new();
        put(&mut payload, b"1.28.0");
        put(&mut payload, name.as_bytes());
        put(&mut payload, b"NPU");
        Ready::decode(&payload)
    };
    for name in ["<b>", "a\nb", "", " a", "a  b", &"x".repeat(65)] {
        assert!(bad(name).is_err(), "{name:?}");
    }
    assert!(bad("QNN (HTP)").is_ok());
    let written = Ready { runtime: String::new(), provider: "a\"\n b".to_owned(), device: "é".to_owned() }.encode();
    assert_eq!(Ready::decode(&written).expect("plain").provider, "a__ b");
    assert_eq!(words(b"one\r\n\x1b[31mtwo\xff"), "one [31mtwo\u{fffd}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_grow(stream in prop::collection::vec(any::<u8>(), 0..4096)) {
        let all = [(Kind::Setup, 2048), (Kind::Ready, 64), (Kind::Run, 64), (Kind::Answer, 64), (Kind::Failed, 64)];
        if let Ok(frame) = read_frame(&mut stream.as_slice(), &all) {
            prop_assert!(frame.payload.len() <= stream.len());
        }
        if let Ok(setup) = Setup::decode(&stream) {
            prop_assert!(setup.network.len() <= stream.len() && setup.shapes.n_output() > 0);
        }
        if let Ok(ready) = Ready::decode(&stream) {
            prop_assert!(ready.engine().chars().count() <= NAME_CHARS_MAX + 4);
        }
        prop_assert!(words(&stream).chars().count() <= 400);
    }

    #[test]
    fn a_setup_with_one_byte_changed_or_cut_off_is_read_or_refused(at in 0_usize..250, byte: u8, cut in 0_usize..250) {
        let mut payload = setup().encode();
        if let Some(place) = payload.get_mut(at) {
            *place = byte;
        }
        payload.truncate(payload.len().saturating_sub(cut));
        if let Ok(read) = Setup::decode(&payload) {
            prop_assert_eq!(read.encode(), payload, "what is taken is what was written");
        }
    }

    #[test]
    fn every_header_is_read_or_refused(header in prop::array::uniform8(any::<u8>()), known: bool) {
        let header = if known { [b'S', b'N', VERSION, header[3] % 7, header[4], header[5], 0, 0] } else { header };
        let result = read_frame(&mut header.as_slice(), &[(Kind::Answer, 1000)]);
        let empty = header[..3] == [b'S', b'N', VERSION] && header[3] == Kind::Answer as u8 && header[4..] == [0; 4];
        prop_assert_eq!(result.is_ok(), empty);
    }
}
