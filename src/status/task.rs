//! The status listener: HTTP/1.1, GET and HEAD only. It asks the gateway's core for a snapshot for each request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::status::snapshot::Snapshot;
use crate::status::{health, metrics, page, state};

/// Who wants a snapshot; the core answers with the one of this moment.
pub type Ask = oneshot::Sender<Snapshot>;

/// Connections at once; a further one takes the place of the oldest, so that silent ones keep nobody out.
pub const CONNECTIONS_MAX: usize = 32;

/// From the connection, or the last answer, to a whole request head.
const HEADER_WITHIN: Duration = Duration::from_secs(5);

/// A connection's whole life: one that reads its answer slowly does not keep its place.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// The core answers in microseconds; later it is stuck, and that is what is told.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(2);

/// After an accept that failed (out of file descriptors), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until the core no longer takes questions. Runs inside a `LocalSet`.
pub async fn run(listener: TcpListener, ask: mpsc::Sender<Ask>) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = ask.closed() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    oldest_first.retain(|connection| !connection.is_finished());
                    if oldest_first.len() >= CONNECTIONS_MAX && let Some(oldest) = oldest_first.pop_front() {
                        oldest.abort();
                    }
                    oldest_first.push_back(connections.spawn_local(serve(stream, ask.clone())));
                }
                Err(error) => {
                    tracing::warn!(%error, "status: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(stream: TcpStream, ask: mpsc::Sender<Ask>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let ask = ask.clone();
        async move { Ok::<_, Infallible>(respond(request.method(), request.uri().path(), &ask).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIFE, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "status: connection ended"),
    }
}

async fn respond(method: &Method, path: &str, ask: &mpsc::Sender<Ask>) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/" => {
            let nonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", page::render(&nonce));
            if let Ok(policy) = HeaderValue::try_from(page::policy(&nonce)) {
                answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            }
            answer
        }
        "/metrics" | "/api/state" | "/healthz" => match snapshot(ask).await {
            Some(snapshot) => shown(path, &snapshot),
            None => answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the gateway does not answer\n"),
        },
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "there are: / /metrics /healthz /api/state\n"),
    }
}

fn shown(path: &str, snapshot: &Snapshot) -> Response<Full<Bytes>> {
    match path {
        "/metrics" => answer(StatusCode::OK, metrics::CONTENT_TYPE, metrics::render(snapshot)),
        "/api/state" => answer(StatusCode::OK, "application/json", state::all(snapshot).to_string()),
        _ => {
            let complaints = health::complaints(snapshot);
            if complaints.is_empty() {
                answer(StatusCode::OK, "text/plain", "ok\n")
            } else {
                answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", complaints.join("\n") + "\n")
            }
        }
    }
}

async fn snapshot(ask: &mpsc::Sender<Ask>) -> Option<Snapshot> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        // A greedy client's questions may stand before this one.
        ask.send(answer).await.ok()?;
        answered.await.ok()
    };
    tokio::time::timeout(SNAPSHOT_WITHIN, asked).await.ok()?
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;
    use crate::status::snapshot::tests::snapshot as sample_snapshot;

    /// Runs the listener and a core that answers, if `answers`, and says what came back for each request.
    fn ask_all(answers: bool, requests: &[&str]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (ask, mut asked) = mpsc::channel::<Ask>(4);
            let server = tokio::task::spawn_local(run(listener, ask));
            let core = tokio::task::spawn_local(async move {
                while let Some(question) = asked.recv().await {
                    if answers {
                        let _ = question.send(sample_snapshot());
                    }
                }
            });
            let mut told = Vec::new();
            for request in requests {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                told.push(text);
            }
            core.abort();
            server.await.unwrap();
            told
        })
    }

    #[test]
    fn each_address_answers_in_its_own_form() {
        let requests = ["GET /", "GET /metrics", "GET /api/state", "GET /healthz", "HEAD /metrics", "GET /x", "POST /"];
        let told = ask_all(true, &requests);
        for (text, status) in told.iter().zip(["200", "200", "200", "200", "200", "404", "405"]) {
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
            assert!(text.contains("content-security-policy: default-src 'none'"), "{text}");
        }
        assert!(told[0].contains("script-src 'nonce-") && told[0].contains("<!doctype html>"));
        assert!(told[1].contains("fieldgate_uptime_seconds 12.5"));
        assert!(told[2].contains(r#""gateway":"pi-1""#));
        assert!(told[3].ends_with("ok\n"));
        assert!(told[4].ends_with("\r\n\r\n"), "a HEAD has no body");
    }

    #[test]
    fn a_core_that_does_not_answer_is_unavailable() {
        assert!(ask_all(false, &["GET /healthz"])[0].starts_with("HTTP/1.1 503"));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the paused clock of the test")]
    fn a_connection_that_comes_later_takes_the_place_of_the_oldest_silent_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (ask, _asked) = mpsc::channel::<Ask>(4);
            tokio::task::spawn_local(run(listener, ask));
            let start = tokio::time::Instant::now();
            let mut silent = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                silent.push(TcpStream::connect(address).await.unwrap());
            }
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 404"), "{text}");
            assert!(start.elapsed() < HEADER_WITHIN, "it had to wait for a place");
            let mut ended = String::new();
            assert!(matches!(silent[0].read_to_string(&mut ended).await, Ok(0) | Err(_)), "the oldest gave way");
        });
    }
}
