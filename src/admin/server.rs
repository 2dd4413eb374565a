//! HTTP/1.1 over hyper: GET and HEAD, and one POST (`order.rs`), a bounded number of connections, each for a bounded time.

use super::order::is_from_here;
use super::{Answer, Answers, TEXT};
use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

/// After the kernel refused a connection (too many open files), before the next is taken.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Answers until it is told to stop.
pub(super) fn serve(listener: TcpListener, answers: Arc<Answers>, stop: &Notify) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // The page's questions to other nodes: one round at a time.
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot watch a socket")?;
        let noted = answers.clone();
        tokio::select! {
            () = accept(&listener, answers) => {}
            () = noted.viewer.note_on() => {}
            () = stop.notified() => {}
        }
        Ok(())
    })
}

async fn accept(listener: &tokio::net::TcpListener, answers: Arc<Answers>) {
    // Further ones wait in the kernel.
    let places = Arc::new(Semaphore::new(answers.about.config.metrics.max_connections.into()));
    loop {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    answer(stream, answers).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin address was not taken");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, answers: Arc<Answers>) {
    let longest = Duration::from_micros(answers.about.config.metrics.connection_timeout_us);
    let from_here = match (stream.peer_addr(), stream.local_addr()) {
        (Ok(peer), Ok(own)) => is_from_here(peer.ip(), own.ip()),
        // It is closed already.
        _ => false,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(respond(&answers, &request, from_here).await) }
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD_BYTES);
    let served = http.serve_connection(TokioIo::new(stream), service);
    match timeout(longest, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin address broke"),
        Err(_) => tracing::debug!("a connection to the admin address lasted too long"),
    }
}

async fn respond(answers: &Answers, request: &Request<Incoming>, from_here: bool) -> Response<Full<Bytes>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    let refused = |status, body: &str| Answer { status, content_type: TEXT, body: body.to_owned() };
    let Answer { status, content_type, body } = match *request.method() {
        Method::GET | Method::HEAD => answers.to_path(path, query).await,
        Method::POST if path == "/reload" && !from_here => {
            refused(403, "a reload is asked for from the node's own host\n")
        }
        // A page of whatever origin that this host's browser shows is not its operator.
        Method::POST if path == "/reload" && request.headers().contains_key(ORIGIN) => {
            refused(403, "a reload is asked for by a program, not by a browser\n")
        }
        Method::POST if path == "/reload" => answers.reload().await,
        _ => refused(405, "there are GET, HEAD, and POST of /reload alone\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Nothing is loaded from anywhere, and nothing runs.
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
