//! How long a simulated host takes for what it says it does.

use std::time::Duration;

/// Time that passes before something is done. Nothing, if nobody says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delays {
    /// `pending` to `running`.
    pub start: Duration,
    /// `stopping` to `stopped`, and `shutting-down` to `terminated`.
    pub power_off: Duration,
    /// The same, forced.
    pub kill: Duration,
    /// A volume's `creating` to `available`.
    pub create: Duration,
    /// `attaching` to `attached`.
    pub plug: Duration,
    /// `detaching` to gone.
    pub unplug: Duration,
    /// A modification's `optimizing` to `completed`.
    pub optimize: Duration,
    /// A snapshot's `pending` to `completed`.
    pub snapshot: Duration,
    /// A load balancer's `provisioning` to `active`.
    pub provision: Duration,
    /// A target's `initial` to `healthy`.
    pub check: Duration,
}

impl Delays {
    /// Some that AWS takes, times `factor`. What starts takes 5 s in the measurement at
    /// <https://www.daemonology.net/blog/2021-08-12-EC2-boot-time-benchmarking.html> (and several times that for other types of instances); the others are
    /// what one commonly sees. A snapshot and a modification take as long there as there is data: minutes to hours.
    pub fn like_aws(factor: f64) -> Self {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds * factor).unwrap_or(Duration::MAX);
        Self {
            start: seconds(5.0),
            power_off: seconds(20.0),
            kill: seconds(5.0),
            create: seconds(2.0),
            plug: seconds(2.0),
            unplug: seconds(4.0),
            optimize: seconds(30.0),
            snapshot: seconds(20.0),
            provision: seconds(120.0),
            check: seconds(15.0),
        }
    }
}

/// Lets time pass.
pub(super) async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Calls when the time has passed: now, if it is none.
pub(super) fn after(time: Duration, call: impl FnOnce() + Send + 'static) {
    if time.is_zero() {
        call();
    } else {
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            call();
        });
    }
}
