//! What is said to a load balancer's process, and what it says, by its control socket.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use balancer::config::LoadBalancer;
use control::ports::TargetPlace;
use control::records::TargetHealth;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::balancer::orders::{News, Order, TargetNews};
use crate::socket;

/// How long an order may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A conversation with a process. Nobody listens to that any more when this is dropped.
pub(super) struct Conversation {
    orders: OwnedWriteHalf,
    answers: mpsc::Receiver<Answer>,
    listening: AbortHandle,
}

/// What comes of an order.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    /// Why not.
    Refused(String),
    /// It did not come: the process has ended, or hangs.
    Nothing,
}

impl Conversation {
    /// Begins one. `tell` is told how targets are, whenever that has changed, and at last that nobody knows any more.
    ///
    /// # Errors
    /// When nobody listens.
    pub(super) fn begin(
        control: &Path,
        tell: impl Fn(Option<BTreeMap<TargetPlace, TargetHealth>>) + Send + 'static,
    ) -> io::Result<Self> {
        let stream = socket::connect(control)?;
        stream.set_nonblocking(true)?;
        let (news, orders) = UnixStream::from_std(stream)?.into_split();
        let (answer, answers) = mpsc::channel(1);
        let listening = tokio::spawn(listen(news, answer, tell)).abort_handle();
        Ok(Self { orders, answers, listening })
    }

    /// Has requests be served so, when it returns that it is done.
    pub(super) async fn replace(&mut self, config: LoadBalancer) -> Answer {
        let Ok(mut order) = serde_json::to_vec(&Order::Replace(config)) else { return Answer::Nothing };
        order.push(b'\n');
        let answered = async {
            self.orders.write_all(&order).await.ok()?;
            self.answers.recv().await
        };
        timeout(ANSWER_MAX, answered).await.ok().flatten().unwrap_or(Answer::Nothing)
    }

    /// It does not from before anybody is told that it has ended: the kernel closes a process's sockets before it tells of its end.
    pub(super) fn goes_on(&self) -> bool {
        !self.answers.is_closed()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Until the process is gone, or says what is not understood.
async fn listen(
    news: OwnedReadHalf,
    answer: mpsc::Sender<Answer>,
    tell: impl Fn(Option<BTreeMap<TargetPlace, TargetHealth>>),
) {
    let mut lines = BufReader::new(news).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answered = match serde_json::from_str(&line) {
            Ok(News::Health(targets)) => {
                tell(Some(targets.into_iter().filter_map(health).collect()));
                continue;
            }
            Ok(News::Done) => Answer::Done,
            Ok(News::Refused(why)) => Answer::Refused(why),
            Err(error) => {
                tracing::error!(%error, "a load balancer says what is not understood");
                break;
            }
        };
        if answer.send(answered).await.is_err() {
            break;
        }
    }
    drop(answer);
    tell(None);
}

/// None: it is about a group that is not called by its id, which nobody asked for.
fn health(news: TargetNews) -> Option<(TargetPlace, TargetHealth)> {
    let TargetNews { group, address, state, reason } = news;
    let health = match (state.as_str(), reason) {
        ("healthy", _) => TargetHealth::Healthy,
        ("unhealthy", Some((reason, description))) => TargetHealth::Unhealthy { reason, description },
        (_, Some((reason, _))) if reason == "Elb.InitialHealthChecking" => {
            TargetHealth::Initial { is_registering: false }
        }
        _ => TargetHealth::NEW,
    };
    Some(((group.parse().ok()?, address), health))
}
