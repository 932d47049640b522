//! What is written down of requests, if anything is: the access log's lines.

use std::time::SystemTime;

use super::Worker;
use super::client::Client;
use crate::access_log::Line;
use crate::counters::Count;
use crate::http1::{Connection, Flaw, Request};

/// So much of lines is handed over at once, or what there is after a second.
const LINES_BYTES_MAX: usize = 32 << 10;

impl Worker {
    /// Begins a line for what a client asks; none of it is known if it was no request.
    pub(super) fn begin_line(
        &self,
        client: &Client,
        asked: Result<(&[u8], &Request), Flaw>,
    ) -> Option<Box<Line>> {
        let plan = self.routes.plan();
        plan.log.as_ref()?;
        let is_http2 = client.transport.is_stream();
        let scheme = if client.is_tls { "https" } else { "http" };
        let version = if is_http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        let field = |name: &[u8]| {
            let (head, request) = asked.ok()?;
            let named = |field: &&crate::http1::Field| head[field.name.clone()].eq_ignore_ascii_case(name);
            request.fields.iter().find(named).map(|field| &head[field.value.clone()])
        };
        let mut line = Vec::new();
        match asked {
            Ok((head, request)) => {
                let (method, target) = (&head[request.method.clone()], &head[request.target.clone()]);
                let host = crate::rules::without_port(&head[request.host.clone()]);
                for part in [method, b" ", scheme.as_bytes(), b"://", host] {
                    line.extend_from_slice(part);
                }
                line.extend_from_slice(format!(":{}", client.entrance.port).as_bytes());
                line.extend_from_slice(target);
                line.extend_from_slice(format!(" {version}").as_bytes());
            }
            Err(_) => {
                line.extend_from_slice(format!("- {scheme}://-:{}- -", client.entrance.port).as_bytes())
            }
        }
        let is_socket = asked.is_ok_and(|(_, request)| request.connection == Connection::Upgrade);
        let is_grpc =
            is_http2 && field(b"content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
        let secured = client.transport.secured();
        Some(Box::new(Line {
            kind: match (is_http2, client.is_tls) {
                (true, _) if is_grpc => "grpcs",
                (true, _) => "h2",
                (false, true) if is_socket => "wss",
                (false, true) => "https",
                (false, false) if is_socket => "ws",
                (false, false) => "http",
            },
            created: self.wall,
            client: client.peer,
            target: None,
            target_time: None,
            status: None,
            target_status: None,
            received: 0,
            sent: 0,
            request: line,
            agent: field(b"user-agent").unwrap_or_default().to_vec(),
            tls: secured.map(|secured| (secured.cipher, secured.version)),
            group: None,
            trace: "-".to_owned(),
            domain: client.transport.server_name(),
            priority: None,
            action: None,
            redirect: None,
            flaw: asked.map_or_else(Some, |(_, request)| request.flaw),
            connection: client.connection,
        }))
    }

    /// The exchange of a client is over, one way or the other.
    pub(super) fn end_exchange(&mut self, place: usize) {
        let Some(exchange) = self.clients.get_mut(place).and_then(|client| client.exchange.take()) else {
            return;
        };
        if exchange.response.is_none() && exchange.choice.is_some() {
            self.count_own(460);
        }
        let Some(mut line) = exchange.line else { return };
        if line.status.is_none() && exchange.response.is_none() {
            // It has gone before there was an answer.
            line.status = Some(460);
        }
        let plan = self.routes.plan();
        // It was on when the request came.
        if let Some(log) = &plan.config.access_log {
            line.write(&log.name, SystemTime::now(), &mut self.lines);
        }
        if self.lines.len() > LINES_BYTES_MAX {
            self.hand_lines_over();
        }
    }

    pub(super) fn hand_lines_over(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        if !self.routes.plan().log.as_ref().is_some_and(|log| log.hand_over(lines)) {
            self.counters.all.add(Count::LostLines, count);
        }
    }
}
