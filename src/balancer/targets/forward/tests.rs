use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::targets::{Group, Standing, TagKey};

const NOW: Instant = Instant(Duration::ZERO);

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

/// A group `name` of four ready targets, named after it, with `stickiness`.
fn picker(name: &str, stickiness: &Json) -> Picker {
    let target = |port: u16| json!({"id": format!("{name}{port}"), "ip": "10.0.0.1", "port": port});
    let targets: Vec<_> = (1..=4).map(target).collect();
    let config = serde_json::from_value(json!({"targets": targets, "stickiness": stickiness})).unwrap();
    let group = Group::new(name, &config, None, &TagKey::new([1; 32]), None);
    for member in group.members() {
        group.set_standing(member, Standing::Ready, NOW);
    }
    Picker::new(Arc::new(group), Random::new(3))
}

/// A client, its cookies and the load balancer that it asks.
struct World {
    pickers: Vec<Picker>,
    forwarder: Forwarder,
    cookies: BTreeMap<String, String>,
}

impl World {
    fn new(stickiness: &[Json], weights: &[u32], stickiness_s: Option<u32>) -> Self {
        let pickers = ["a", "b", "c"]
            .iter()
            .zip(stickiness)
            .map(|(name, stickiness)| picker(name, stickiness))
            .collect();
        let groups = weights.iter().copied().enumerate().collect();
        Self {
            pickers,
            forwarder: Forwarder::new(groups, stickiness_s, Random::new(5)),
            cookies: BTreeMap::new(),
        }
    }

    fn choose(&mut self, wall: SystemTime) -> Option<Choice> {
        let line =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        let headers: [(&[u8], &[u8]); 1] = [(b"Cookie", line.as_bytes())];
        self.forwarder.choose(&mut self.pickers, &Cookies::new(headers.into_iter()), NOW, wall)
    }

    /// Asks, keeps the cookies of the answer, and says which target answered.
    fn ask(&mut self, wall: SystemTime, is_application_set: bool) -> String {
        let choice = self.choose(wall).unwrap();
        for field in choice.set_cookies(is_application_set, false, wall) {
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        choice.lease.member().target.id.clone()
    }

    fn put(&self, id: &str, standing: Standing) {
        for group in self.pickers.iter().map(Picker::group) {
            for member in group.members().iter().filter(|member| member.target.id == id) {
                group.set_standing(member, standing, NOW);
            }
        }
    }
}

fn lb(duration_s: u32) -> Json {
    json!({"lb_cookie": {"duration_s": duration_s}})
}

fn app() -> Json {
    json!({"app_cookie": {"name": "session", "duration_s": 60}})
}

#[test]
fn without_stickiness_there_are_no_cookies() {
    let mut world = World::new(&[Json::Null], &[1], None);
    let targets: std::collections::BTreeSet<_> = (0..4).map(|_| world.ask(wall(0), true)).collect();
    assert_eq!((targets.len(), world.cookies.len()), (4, 0));
}

#[test]
fn a_client_stays_with_its_target_as_long_as_it_asks_in_time() {
    let mut world = World::new(&[lb(60)], &[1], None);
    let first = world.ask(wall(0), false);
    assert_eq!(world.cookies.keys().collect::<Vec<_>>(), ["AWSALB", "AWSALBCORS"]);
    assert_eq!(world.cookies["AWSALB"], world.cookies["AWSALBCORS"]);
    // The stay begins anew with each request.
    for seconds in [0, 59, 118, 177] {
        assert_eq!(world.ask(wall(seconds), false), first);
    }
    let late: Vec<String> = (0..4).map(|round| world.ask(wall(1000 * (round + 1)), false)).collect();
    assert!(late.iter().any(|target| *target != first), "{late:?}");
}

#[test]
fn a_request_from_another_site_has_the_second_cookie_only() {
    let mut world = World::new(&[lb(60)], &[1], None);
    let choice = world.choose(wall(0)).unwrap();
    let fields = choice.set_cookies(false, false, wall(0));
    assert!(fields[0].starts_with("AWSALB=") && fields[0].ends_with("; Path=/"), "{fields:?}");
    assert!(
        fields[1].starts_with("AWSALBCORS=") && fields[1].ends_with("; Path=/; SameSite=None; Secure"),
        "{fields:?}"
    );
    let first = world.ask(wall(0), false);
    world.cookies.remove("AWSALB");
    assert_eq!([(); 3].map(|()| world.ask(wall(1), false)), [(); 3].map(|()| first.clone()));
}

#[test]
fn a_client_whose_target_fails_goes_to_another_and_stays_there() {
    let mut world = World::new(&[lb(60)], &[1], None);
    let first = world.ask(wall(0), false);
    world.put(&first, Standing::Doubtful);
    let second = world.ask(wall(1), false);
    assert_ne!(second, first);
    world.put(&first, Standing::Ready);
    assert!((2..10).all(|seconds| world.ask(wall(seconds), false) == second));
}

#[test]
fn an_application_cookie_begins_a_stay_and_its_end_ends_it() {
    let mut world = World::new(&[app()], &[1], None);
    assert_eq!(world.choose(wall(0)).unwrap().application_cookie(), Some("session"));
    world.ask(wall(0), false);
    assert!(world.cookies.is_empty(), "the target has set nothing");
    let first = world.ask(wall(0), true);
    assert_eq!(world.cookies.keys().collect::<Vec<_>>(), ["AWSALBAPP-0"]);
    // The load balancer's cookie alone is nothing.
    let alone: Vec<String> = (0..4).map(|_| world.ask(wall(1), false)).collect();
    assert!(alone.iter().any(|target| *target != first), "{alone:?}");
    world.cookies.insert("session".to_owned(), "x".to_owned());
    for seconds in [1, 60, 119] {
        assert_eq!(world.ask(wall(seconds), false), first);
    }
    // Too late, it begins a new one at once, for the application's is still there.
    let next = world.ask(wall(500), false);
    assert_eq!(world.ask(wall(501), false), next);
    let field = &world.choose(wall(502)).unwrap().set_cookies(false, true, wall(502))[0];
    assert!(field.starts_with("AWSALBAPP-0=") && field.ends_with("; SameSite=None; Secure"), "{field}");
}

#[test]
fn a_client_stays_with_its_group() {
    let mut world = World::new(&[Json::Null, lb(60)], &[1, 1], Some(100));
    let first = world.ask(wall(0), false);
    assert!(world.cookies.contains_key("AWSALBTG") && world.cookies.contains_key("AWSALBTGCORS"));
    assert!((1..50).all(|second| world.ask(wall(second), false)[..1] == first[..1]));
    // Not so with a group that has no weight any more.
    let picker = usize::from(first.starts_with('b'));
    world.forwarder.groups[picker].1 = 0;
    assert_ne!(world.ask(wall(50), false)[..1], first[..1]);
}

#[test]
fn a_group_without_targets_that_can_serve_is_not_made_up_for_by_another() {
    let mut world = World::new(&[Json::Null, Json::Null], &[1, 1], None);
    for port in 1..=4 {
        world.put(&format!("a{port}"), Standing::Out);
    }
    let answers: Vec<bool> = (0..100).map(|_| world.choose(wall(0)).is_some()).collect();
    assert!(answers.contains(&true) && answers.contains(&false));
    let mut nothing = World::new(&[Json::Null], &[0], None);
    assert!(nothing.choose(wall(0)).is_none());
}

proptest! {
    #[test]
    fn groups_have_shares_as_their_weights_say(weights in prop::collection::vec(0u32..=999, 3)) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let mut world = World::new(&[Json::Null, Json::Null, Json::Null], &weights, None);
        let mut counts = [0.0; 3];
        for _ in 0..4000 {
            counts[world.choose(wall(0)).unwrap().picker] += 1.0;
        }
        for (count, weight) in counts.into_iter().zip(&weights) {
            let share = f64::from(*weight) / f64::from(total);
            // Five deviations of 4000 throws, of which none is more than 32.
            prop_assert!((count - 4000.0 * share).abs() <= 160.0, "{:?} for {:?}", counts, weights);
            prop_assert!(*weight > 0 || count == 0.0);
        }
    }

    /// Of another group, of another key, or made up: a target of the group that the rule names is picked, and one that is ready.
    #[test]
    fn a_forged_cookie_does_no_more_than_none(
        values in prop::collection::vec(prop_oneof!["[0-9a-f]{48}", "[ -~&&[^;]]{0,60}"], 5),
        is_foreign in any::<bool>(),
    ) {
        let mut other = World::new(&[Json::Null, lb(60)], &[0, 1], Some(60));
        other.ask(wall(0), false);
        let mut world = World::new(&[lb(60), app()], &[1, 0], Some(60));
        world.put("a1", Standing::Out);
        world.put("a2", Standing::Doubtful);
        if is_foreign {
            world.cookies = other.cookies;
        } else {
            let names = ["AWSALB", "AWSALBCORS", "AWSALBTG", "AWSALBTGCORS", "AWSALBAPP-0"];
            world.cookies = names.iter().map(|name| (*name).to_owned()).zip(values).collect();
        }
        for _ in 0..4 {
            let choice = world.choose(wall(1)).unwrap();
            let id = &choice.lease.member().target.id;
            prop_assert!(["a3", "a4"].contains(&id.as_str()), "{}", id);
        }
    }
}
