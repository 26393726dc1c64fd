//! Who may ask: requests in -> the same request, or a refusal; and the headers that every answer carries.
//!
//! A browser must not be talked into using the page for somebody else: the Host header is checked against DNS rebinding, changes need a
//! header that other sites cannot send without asking (Fetch standard, CORS-preflight) or, for the two forms of the login, the browser's
//! word that they come from here, and the content security policy allows our own files and forms and nothing else.
//!
//! Where there is a login, it is asked of whoever is not on this box itself, for everything but what [`is_public`] lists: the lamp and
//! what it means, which the room sees anyway, `/healthz`, and the form.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::WebState;
use super::events::WebEvent;
use super::server::Peer;

/// Only ourselves: no inline script or style, no frames, no other origin.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                                       base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Headers of every answer.
const ALWAYS: [(HeaderName, &str); 8] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With "no-referrer" browsers send `Origin: null` with a form of our own (Fetch standard, "append a request Origin header").
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// There is no login, or it is this box itself.
    Trusted,
    /// Logged in.
    LoggedIn,
    /// Neither.
    Stranger,
}

/// The middleware around every route.
pub(super) async fn guard(State(state): State<WebState>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<axum::extract::ConnectInfo<Peer>>().map(|info| info.0.0.ip().to_canonical());
    let peer_text = peer.map_or_else(|| "an unknown address".to_owned(), |ip| ip.to_string());
    let visitor = visitor(&state, peer, request.headers());
    let is_form = matches!(request.uri().path(), "/login" | "/logout");
    let from_us = if is_form { is_our_form(request.headers()) } else { comes_from_our_page(request.headers()) };
    let mut response = if !host_is_ours(request.headers(), &state.host_names) {
        state.journal.record(&WebEvent::HostRefused { peer: peer_text });
        let text = "This box is not known by that name here. Use its address, or add the name to web.host_names.\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    } else if changes_something(request.method()) && !from_us {
        state.journal.record(&WebEvent::ForeignRequestRefused { peer: peer_text });
        let text = "Changes need the header \"X-Scanside-Request: 1\" or the content type application/json, from this page or no page.\n";
        (StatusCode::FORBIDDEN, text).into_response()
    } else if visitor == Visitor::Stranger && !is_public(request.method(), request.uri().path()) {
        log_in_first(request.uri().path())
    } else {
        request.extensions_mut().insert(visitor);
        next.run(request).await
    };
    for (name, value) in ALWAYS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn visitor(state: &WebState, peer: Option<IpAddr>, headers: &HeaderMap) -> Visitor {
    let Some(login) = &state.login else { return Visitor::Trusted };
    if peer.is_some_and(|ip| ip.is_loopback()) {
        return Visitor::Trusted;
    }
    match token_of(headers, login.cookie_name()) {
        Some(token) if login.holds(token) => Visitor::LoggedIn,
        _ => Visitor::Stranger,
    }
}

/// What strangers see: the lamp, and the way in. Everything else, new routes included, follows the login.
fn is_public(method: &Method, path: &str) -> bool {
    let files = ["/static/app.js", "/static/style.css", "/static/icon.svg", "/favicon.ico"];
    match *method {
        Method::GET | Method::HEAD => matches!(path, "/" | "/healthz" | "/events") || files.contains(&path),
        Method::POST => matches!(path, "/login" | "/logout"),
        _ => false,
    }
}

fn log_in_first(path: &str) -> Response {
    if path.starts_with("/api/") || path == "/metrics" {
        let text =
            "Log in first: send the claim code as the field \"code\" of a form to /login, and its cookie with each request.";
        return super::api::fault(StatusCode::UNAUTHORIZED, text);
    }
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response()
}

/// The value of our cookie (RFC 6265 section 5.4); two of that name are none.
pub(super) fn token_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut ours = cookies.flat_map(|text| text.split(';')).filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then_some(value.trim())
    });
    let token = ours.next()?;
    ours.next().is_none().then_some(token)
}

/// Whether a form comes from our own page, or from a program: browsers say from where.
fn is_our_form(headers: &HeaderMap) -> bool {
    let form = one(headers, &header::CONTENT_TYPE).is_some_and(|value| {
        value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    form && is_same_site(headers)
}

fn changes_something(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The host of `Host: name:port`, or `None` when it is malformed.
fn host_of(authority: &str) -> Option<&str> {
    let port_is_fine = |port: &str| port.is_empty() || (port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()));
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return (after.is_empty() || after.strip_prefix(':').is_some_and(port_is_fine)).then_some(host);
    }
    match authority.split_once(':') {
        Some((host, port)) => port_is_fine(port).then_some(host),
        None => Some(authority),
    }
}

/// Whether the request names this box: an address (rebinding needs a name), `localhost`, or a configured name.
pub(super) fn host_is_ours(headers: &HeaderMap, host_names: &[String]) -> bool {
    let Some(host) = one(headers, &header::HOST).and_then(host_of) else { return false };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host_names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Whether a change was asked for by our own page, or by a program rather than another site's page.
pub(super) fn comes_from_our_page(headers: &HeaderMap) -> bool {
    let marked = one(headers, &HeaderName::from_static("x-scanside-request")) == Some("1");
    let is_json = one(headers, &header::CONTENT_TYPE)
        .is_some_and(|value| value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json"));
    if !marked && !is_json {
        return false;
    }
    is_same_site(headers)
}

/// Whether no browser says that another site's page asks.
fn is_same_site(headers: &HeaderMap) -> bool {
    let fetch_site = HeaderName::from_static("sec-fetch-site");
    if headers.contains_key(&fetch_site) && !matches!(one(headers, &fetch_site), Some("same-origin" | "none")) {
        return false;
    }
    if !headers.contains_key(header::ORIGIN) {
        return true; // programs send none; browsers always do with a POST
    }
    let (Some(origin), Some(host)) = (one(headers, &header::ORIGIN), one(headers, &header::HOST)) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_foreign_name_in_the_host_header_is_refused() {
        let names = ["triage.hospital.example".to_owned()];
        for good in ["127.0.0.1:8080", "localhost", "[::1]:8080", "10.0.0.7", "Triage.Hospital.example:80", "localhost."] {
            assert!(host_is_ours(&headers(&[("host", good)]), &names), "{good}");
        }
        for bad in
            ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "", "localhost:x"]
        {
            assert!(!host_is_ours(&headers(&[("host", bad)]), &names), "{bad}");
        }
        assert!(!host_is_ours(&headers(&[]), &names));
        assert!(!host_is_ours(&headers(&[("host", "localhost"), ("host", "evil.example")]), &names));
    }

    #[test]
    fn a_change_from_another_sites_page_is_refused() {
        let host = ("host", "127.0.0.1:8080");
        let ours = ("x-scanside-request", "1");
        assert!(comes_from_our_page(&headers(&[host, ours])));
        assert!(comes_from_our_page(&headers(&[host, ("content-type", "application/json; charset=utf-8")])));
        assert!(comes_from_our_page(&headers(&[
            host,
            ours,
            ("origin", "http://127.0.0.1:8080"),
            ("sec-fetch-site", "same-origin")
        ])));
        assert!(!comes_from_our_page(&headers(&[host])));
        assert!(!comes_from_our_page(&headers(&[host, ("content-type", "text/plain")])));
        assert!(!comes_from_our_page(&headers(&[host, ours, ("origin", "http://evil.example")])));
        assert!(!comes_from_our_page(&headers(&[host, ours, ("origin", "null")])));
        assert!(!comes_from_our_page(&headers(&[host, ours, ("sec-fetch-site", "cross-site")])));
        assert!(!comes_from_our_page(&headers(&[host, ours, ("origin", "http://127.0.0.1:8080.evil.example")])));
    }

    #[test]
    fn strangers_see_the_lamp_and_the_way_in_and_nothing_else() {
        for path in ["/", "/healthz", "/events", "/static/app.js"] {
            assert!(is_public(&Method::GET, path), "{path}");
        }
        for path in [
            "/studies/1.2",
            "/api/v1/status",
            "/api/v1/studies",
            "/metrics",
            "/login",
            "/static/",
            "/whatever",
            "//",
            "/healthz/",
        ] {
            assert!(!is_public(&Method::GET, path), "{path}");
        }
        assert!(is_public(&Method::POST, "/login") && !is_public(&Method::POST, "/") && !is_public(&Method::DELETE, "/login"));
        assert!(!is_public(&Method::POST, "/api/v1/studies/1.2/acknowledge"));
    }

    #[test]
    fn a_form_of_another_site_is_refused_and_a_cookie_is_found_among_others() {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let host = ("host", "10.0.0.7");
        assert!(is_our_form(&headers(&[form, host])), "a program");
        assert!(is_our_form(&headers(&[form, host, ("origin", "https://10.0.0.7"), ("sec-fetch-site", "same-origin")])));
        for bad in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!is_our_form(&headers(&[form, host, bad])), "{bad:?}");
        }
        assert!(!is_our_form(&headers(&[("content-type", "text/plain"), host])));
        let name = "__Host-scanside";
        assert_eq!(token_of(&headers(&[("cookie", "a=b; __Host-scanside=abc; c=d")]), name), Some("abc"));
        assert_eq!(token_of(&headers(&[("cookie", "a=b"), ("cookie", "__Host-scanside=abc")]), name), Some("abc"));
        assert_eq!(token_of(&headers(&[("cookie", "__Host-scanside=abc; __Host-scanside=abd")]), name), None);
        assert_eq!(token_of(&headers(&[("cookie", "scanside=abc")]), name), None);
    }
}
