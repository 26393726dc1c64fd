//! `POST /login` and `POST /logout`: a form in -> a cookie, or the page again with a sentence. The form itself stands on the overview.

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::WebState;
use super::events::WebEvent;
use super::guard::token_of;
use super::login::Attempt;
use super::page;
use super::server::Peer;

/// The form, with what went wrong the last time.
pub(super) fn form(said: Option<&str>) -> Markup {
    html! {
        section.login aria-labelledby="h-login" {
            h2 #h-login { "Log in" }
            p { "Studies and settings are shown after logging in. The claim code stands on the console of the box and in its papers." }
            form method="post" action="/login" autocomplete="off" {
                label for="code" { "Claim code" }
                input #code name="code" type="password" maxlength="40" required autofocus autocapitalize="characters" spellcheck="false";
                button type="submit" { "Log in" }
            }
            @if let Some(said) = said { p.failed role="alert" { (said) } }
        }
    }
}

/// `POST /login`.
pub(super) async fn log_in(State(state): State<WebState>, ConnectInfo(peer): ConnectInfo<Peer>, body: Bytes) -> Response {
    let Some(login) = state.login.clone() else { return to_the_page().await.into_response() };
    let ip = peer.0.ip().to_canonical();
    let told = |event: WebEvent| state.journal.record(&event);
    let (status, text, wait_ms) = match login.attempt(ip, &field(&body, "code").unwrap_or_default()) {
        Attempt::Opened(token) => {
            told(WebEvent::LoggedIn { peer: ip.to_string() });
            return ([(header::SET_COOKIE, login.cookie(Some(&token)))], to_the_page().await).into_response();
        }
        Attempt::Wrong(pause_ms) => {
            told(WebEvent::LoginFailed { peer: ip.to_string(), pause_s: pause_ms / 1000 });
            (StatusCode::UNAUTHORIZED, "That is not the claim code of this box.".to_owned(), pause_ms)
        }
        Attempt::Wait(ms) => {
            let text = format!("Too many attempts: try again in {} s.", ms.div_ceil(1000));
            (StatusCode::TOO_MANY_REQUESTS, text, ms)
        }
        Attempt::Closed(text) => (StatusCode::SERVICE_UNAVAILABLE, text, 0),
    };
    let mut response = (status, page::public(&state, Some(&text))).into_response();
    if wait_ms > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, wait_ms.div_ceil(1000).into());
    }
    response
}

/// `POST /logout`.
pub(super) async fn log_out(State(state): State<WebState>, headers: HeaderMap) -> Response {
    let Some(login) = state.login.clone() else { return to_the_page().await.into_response() };
    if let Some(token) = token_of(&headers, login.cookie_name()) {
        login.close(token);
    }
    ([(header::SET_COOKIE, login.cookie(None))], to_the_page().await).into_response()
}

/// `GET /login`: the form stands on the first page.
pub(super) async fn to_the_page() -> (StatusCode, [(header::HeaderName, &'static str); 1]) {
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/")])
}

/// One field of a form (URL standard, application/x-www-form-urlencoded); the first of that name.
fn field(body: &[u8], name: &str) -> Option<String> {
    let pair = body.split(|b| *b == b'&').find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        (key == name.as_bytes()).then_some(value)
    })?;
    let hex =
        |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut rest) = (Vec::with_capacity(pair.len()), pair.iter());
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next())? << 4 | hex(rest.next())?,
            plain => *plain,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::field;
    use proptest::prelude::*;

    #[test]
    fn a_field_is_read_as_browsers_write_it() {
        assert_eq!(field(b"a=1&code=AB-CD+EF%2f%C3%A4&code=2", "code").as_deref(), Some("AB-CD EF/\u{e4}"));
        for junk in [&b""[..], b"code", b"codes=1", b"code=%", b"code=%4", b"code=%zz", b"code=%ff"] {
            assert_eq!(field(junk, "code"), None, "{}", String::from_utf8_lossy(junk));
        }
        assert_eq!(field(b"code=", "code").as_deref(), Some(""));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = field(&body, "code");
            let _ = field(&[b"code=", &body[..]].concat(), "code");
        }
    }
}
