// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{collections::VecDeque, net::Ipv4Addr};

use tokio::sync::Notify;

use super::*;

/// Gives scripted answers; waits for a permit before each when it is told to.
#[derive(Debug, Default)]
pub(in crate::credential) struct FakeResolver {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
    started: Notify,
    gate: Option<Semaphore>,
}

impl FakeResolver {
    pub(in crate::credential) fn knowing(names: &[(&str, &[&str])]) -> Self {
        let fake = Self::default();
        for (host, addresses) in names {
            fake.then(host, addresses);
        }
        fake
    }

    fn gated(mut self) -> Self {
        self.gate = Some(Semaphore::new(0));
        self
    }

    fn then(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.answers.lock().unwrap().entry(host.to_owned()).or_default().push_back(addresses);
    }

    pub(in crate::credential) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for FakeResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(host.to_owned());
            self.started.notify_one();
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let answer = self.answers.lock().unwrap().get_mut(host).and_then(VecDeque::pop_front);
            answer.ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

fn caching(fake: FakeResolver, limits: Limits) -> (Arc<FakeResolver>, Arc<CachingResolver>) {
    let fake = Arc::new(fake);
    (Arc::clone(&fake), Arc::new(CachingResolver::new(fake, limits)))
}

fn addresses(texts: &[&str]) -> Addresses {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn is_fresh(resolver: &CachingResolver, host: &str, at: Instant) -> bool {
    resolver.cell(host, at).unwrap().initialized()
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_kept() {
    let (fake, resolver) = caching(FakeResolver::knowing(&[("a", &["10.0.0.1"])]), Limits::default());
    assert_eq!(resolver.cached("a"), None);
    for _ in 0..3 {
        assert_eq!(resolver.addresses("a").await.unwrap(), addresses(&["10.0.0.1"]));
    }
    assert_eq!(resolver.cached("a"), Some(addresses(&["10.0.0.1"])));
    assert_eq!(fake.asked(), ["a"]);
}

#[tokio::test]
async fn a_good_answer_is_good_for_thirty_seconds_and_a_bad_one_for_two() {
    let (_fake, resolver) = caching(FakeResolver::knowing(&[("good", &["10.0.0.1"])]), Limits::default());
    resolver.addresses("good").await.unwrap();
    resolver.addresses("bad").await.unwrap_err();
    let end = |host: &str| resolver.cell(host, Instant::now()).unwrap().get().unwrap().until;
    let now = Instant::now();
    let (good, bad) = (end("good"), end("bad"));
    assert!(good > now + Duration::from_secs(29) && good <= now + Duration::from_secs(30));
    assert!(bad > now + Duration::from_secs(1) && bad <= now + Duration::from_secs(2));
    let instant = Duration::from_nanos(1);
    assert!(is_fresh(&resolver, "good", good - instant));
    assert!(resolver.known("good", good).is_none());
    assert!(!is_fresh(&resolver, "good", good));
    assert!(is_fresh(&resolver, "bad", bad - instant));
    assert!(!is_fresh(&resolver, "bad", bad));
}

#[tokio::test]
async fn an_answer_out_of_date_is_asked_for_again() {
    let limits = Limits { good_for: Duration::ZERO, bad_for: Duration::ZERO, ..Limits::default() };
    let (fake, resolver) = caching(FakeResolver::knowing(&[("a", &["10.0.0.1"])]), limits);
    fake.then("a", &["10.0.0.2"]);
    assert_eq!(resolver.addresses("a").await.unwrap(), addresses(&["10.0.0.1"]));
    assert_eq!(resolver.cached("a"), None);
    assert_eq!(resolver.addresses("a").await.unwrap(), addresses(&["10.0.0.2"]));
    assert!(matches!(resolver.addresses("a").await, Err(Error::Resolve { .. })), "an old answer must not live on");
}

#[tokio::test]
async fn those_who_ask_at_once_share_one_look_up() {
    let (fake, resolver) = caching(FakeResolver::knowing(&[("a", &["10.0.0.1"])]).gated(), Limits::default());
    let (first, second, third, ()) =
        tokio::join!(resolver.addresses("a"), resolver.addresses("a"), resolver.addresses("a"), async {
            fake.started.notified().await;
            fake.gate.as_ref().unwrap().add_permits(1);
        });
    for answer in [first, second, third] {
        assert_eq!(answer.unwrap(), addresses(&["10.0.0.1"]));
    }
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn when_the_one_who_asked_gives_up_the_next_one_asks() {
    let (fake, resolver) = caching(FakeResolver::knowing(&[("a", &["10.0.0.1"])]).gated(), Limits::default());
    {
        let mut first = Box::pin(resolver.addresses("a"));
        tokio::select! {
            biased;
            _ = &mut first => panic!("the gate is closed"),
            () = fake.started.notified() => {}
        }
    }
    fake.gate.as_ref().unwrap().add_permits(1);
    assert_eq!(resolver.addresses("a").await.unwrap(), addresses(&["10.0.0.1"]));
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_look_up_that_takes_too_long_is_a_failure() {
    let limits = Limits { timeout: Duration::from_millis(1), ..Limits::default() };
    let (fake, resolver) = caching(FakeResolver::knowing(&[("a", &["10.0.0.1"])]).gated(), limits);
    assert!(matches!(resolver.addresses("a").await, Err(Error::ResolveTimeout { .. })));
    fake.gate.as_ref().unwrap().add_permits(1);
    assert!(matches!(resolver.addresses("a").await, Err(Error::ResolveTimeout { .. })), "kept for a while");
}

#[tokio::test]
async fn addresses_are_sorted_single_and_never_v4_mapped() {
    let given: &[&str] = &["10.0.0.2", "::1", "::ffff:10.0.0.1", "10.0.0.2"];
    let (_fake, resolver) = caching(FakeResolver::knowing(&[("a", given)]), Limits::default());
    assert_eq!(resolver.addresses("a").await.unwrap(), addresses(&["10.0.0.1", "10.0.0.2", "::1"]));
}

#[tokio::test]
async fn an_answer_without_addresses_or_with_too_many_is_a_failure() {
    let texts = |count: u8| (0..count).map(|last| Ipv4Addr::new(10, 0, 0, last).to_string()).collect::<Vec<_>>();
    let (full, over) = (texts(64), texts(65));
    let borrowed =
        |texts: &'_ [String]| texts.iter().map(|text| -> &str { text.clone().leak() }).collect::<Vec<&str>>();
    let (full, over) = (borrowed(&full), borrowed(&over));
    let fake = FakeResolver::knowing(&[("none", &[]), ("full", &full), ("over", &over)]);
    let (_fake, resolver) = caching(fake, Limits::default());
    assert!(matches!(resolver.addresses("none").await, Err(Error::NoAddress { .. })));
    assert_eq!(resolver.addresses("full").await.unwrap().len(), 64);
    assert!(matches!(resolver.addresses("over").await, Err(Error::TooManyAddresses { limit: 64, .. })));
}

#[tokio::test]
async fn a_full_cache_forgets_the_oldest_answer() {
    let names: &[(&str, &[&str])] = &[("a", &["10.0.0.1"]), ("b", &["10.0.0.2"]), ("c", &["10.0.0.3"])];
    let limits = Limits { names: 2, ..Limits::default() };
    let (fake, resolver) = caching(FakeResolver::knowing(names), limits);
    for host in ["a", "b", "c", "c", "b"] {
        resolver.addresses(host).await.unwrap();
        assert!(resolver.len() <= 2);
    }
    assert_eq!(fake.asked(), ["a", "b", "c"]);
    assert_eq!(resolver.cached("a"), None);
}

#[tokio::test]
async fn a_cache_full_of_look_ups_under_way_refuses_and_an_abandoned_one_makes_room() {
    let limits = Limits { names: 1, ..Limits::default() };
    let names: &[(&str, &[&str])] = &[("a", &["10.0.0.1"]), ("b", &["10.0.0.2"])];
    let (fake, resolver) = caching(FakeResolver::knowing(names).gated(), limits);
    let mut waiting = Box::pin(resolver.addresses("a"));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("the gate is closed"),
        () = fake.started.notified() => {}
    }
    assert!(matches!(resolver.addresses("b").await, Err(Error::ResolverBusy { limit: 1 })));
    drop(waiting);
    fake.gate.as_ref().unwrap().add_permits(1);
    assert_eq!(resolver.addresses("b").await.unwrap(), addresses(&["10.0.0.2"]));
}

#[tokio::test]
async fn the_system_knows_localhost() {
    let resolver = CachingResolver::new(Arc::new(SystemResolver::default()), Limits::default());
    let found = resolver.addresses("localhost").await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}
