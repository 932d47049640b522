//! Configurations that change while requests are under way.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::tests::{Lab, PATIENCE, body, config, echo, forward, head, target};
use super::*;
use crate::config::{Action, FixedResponse, Listener};
use crate::server::Server;

#[test]
fn what_is_changed_meanwhile_fails_no_request() {
    let targets: Vec<_> = (0..4).map(|_| target(echo)).collect();
    let mut lab = Lab::new(forward(), targets.clone(), Attributes::default());
    let address = lab.address;
    let asking: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                for _ in 0..2000 {
                    stream.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                    assert!(head(&mut stream).unwrap().starts_with("HTTP/1.1 200"));
                    body(&mut stream, 15);
                }
            })
        })
        .collect();
    let mut changes = 0;
    while asking.iter().any(|asking| !asking.is_finished()) {
        changes += 1;
        let some = targets.iter().copied().cycle().skip(changes % 4).take(1 + changes % 3).collect();
        let mut config = config(forward(), some, Attributes::default());
        config.listeners[0].address = address;
        lab.server.replace(config).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    asking.into_iter().for_each(|asking| asking.join().unwrap());
    assert!(changes > 10, "{changes} changes");
}

#[test]
fn listeners_stay_who_they_are_in_whatever_order_a_change_names_them() {
    let says = |body: &str| {
        Action::FixedResponse(FixedResponse { status: 200, content_type: None, body: body.into() })
    };
    let mut config = config(says("one"), Vec::new(), Attributes::default());
    let second = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.listeners.push(Listener {
        address: second,
        default_action: says("two"),
        ..config.listeners[0].clone()
    });
    let address = config.listeners[0].address;
    let mut lab = Lab { address, server: Server::start(config.clone(), 1, None, [7; 32]).unwrap() };
    config.listeners.reverse();
    config.listeners[0].default_action = says("changed");
    lab.server.replace(config.clone()).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let get = |address| {
        let asked = TcpStream::connect(address).map(|mut stream| {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        asked.unwrap()
    };
    while !get(second).ends_with("changed") {
        assert!(std::time::Instant::now() < deadline, "it does not change");
    }
    assert!(get(address).ends_with("one"));
    // One that goes hears nobody any more, and one that comes hears.
    config.listeners.pop();
    lab.server.replace(config.clone()).unwrap();
    while TcpStream::connect(address).is_ok() {
        assert!(std::time::Instant::now() < deadline, "it does not go");
    }
    config.listeners.push(Listener { address, default_action: says("again"), ..config.listeners[0].clone() });
    lab.server.replace(config).unwrap();
    assert!(get(address).ends_with("again"));
    assert!(get(second).ends_with("changed"));
}

#[test]
fn a_target_that_is_taken_away_answers_what_it_was_asked_and_is_asked_no_more() {
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    let (asked, hear) = std::sync::mpsc::channel();
    let slow = target(move |mut stream| {
        while head(&mut stream).is_some_and(|request| !request.starts_with("GET /health ")) {
            asked.send(()).unwrap();
            if wait.lock().unwrap().recv().is_err() {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").unwrap();
        }
    });
    let mut config = config(forward(), vec![slow], Attributes::default());
    config.target_groups.get_mut("all").unwrap().health_check.path = "/health".to_owned();
    let address = config.listeners[0].address;
    let mut lab = Lab { address, server: Server::start(config.clone(), 1, None, [7; 32]).unwrap() };
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let ask = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let mut take_away = |delay_s, lab: &mut Lab| {
        let asking = thread::spawn(ask);
        hear.recv_timeout(PATIENCE).unwrap();
        let group = config.target_groups.get_mut("all").unwrap();
        group.deregistration_delay_s = delay_s;
        let targets = std::mem::take(&mut group.targets);
        lab.server.replace(config.clone()).unwrap();
        config.target_groups.get_mut("all").unwrap().targets = targets;
        (asking, config.clone())
    };
    let (asking, back) = take_away(300, &mut lab);
    let deadline = std::time::Instant::now() + PATIENCE;
    let until = |name: &str, lab: &Lab| {
        while lab.server.health("all", slow).name() != name {
            assert!(std::time::Instant::now() < deadline, "it does not become {name}");
            thread::yield_now();
        }
    };
    until("draining", &lab);
    assert!(lab.ask(request).starts_with("HTTP/1.1 503 "), "it gets nothing new");
    answer.send(()).unwrap();
    assert!(asking.join().unwrap().ends_with("slow"));
    until("unused", &lab);
    lab.server.replace(back).unwrap();
    // What takes longer than the delay is told so.
    let (asking, _) = take_away(1, &mut lab);
    assert!(asking.join().unwrap().starts_with("HTTP/1.1 502 "));
    drop(answer);
}
