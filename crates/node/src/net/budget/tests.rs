use futures_util::FutureExt as _;

use super::*;

fn budget(bytes_max: usize) -> Budget {
    let gauge = IntGauge::new("used", "used").expect("the name is one");
    Budget::new(bytes_max, Duration::from_secs(60), gauge)
}

fn used(budget: &Budget) -> usize {
    budget.lock().used
}

/// Everything that a connection gets without waiting, in pages of so many bytes.
fn as_many_as_fit(account: &Account, bytes: usize) -> Vec<Permit> {
    std::iter::from_fn(|| account.try_reserve(bytes)).collect()
}

/// Goal: whoever reads nothing leaves as much as it holds to others, however many there are.
#[test]
fn a_greedy_connection_leaves_room_for_others() {
    let budget = budget(1000);
    let (a, b, c) = (budget.account(), budget.account(), budget.account());
    let of_a = as_many_as_fit(&a, 10);
    assert_eq!(of_a.len(), 50, "half of it");
    let of_b = as_many_as_fit(&b, 10);
    assert_eq!(of_b.len(), 25, "half of what is left");
    assert!(c.try_reserve(200).is_some(), "who holds nothing gets all there is");
    drop((of_a, of_b));
    assert_eq!(used(&budget), 0);
}

/// Goal: a message larger than the budget is served, alone, and is not overtaken for ever.
#[test]
fn a_message_larger_than_the_budget_gets_its_turn() {
    let budget = budget(1000);
    let (a, b, c) = (budget.account(), budget.account(), budget.account());
    let mut held = as_many_as_fit(&a, 100);
    let mut large = Box::pin(b.reserve(5000));
    assert!(large.as_mut().now_or_never().is_none());
    assert!(a.try_reserve(1).is_none() && c.try_reserve(1).is_none(), "nobody passes who came first");
    held.pop();
    assert!(large.as_mut().now_or_never().is_none());
    drop(held);
    let permit = large.now_or_never().expect("there is nobody else");
    assert_eq!(used(&budget), 5000);
    drop(permit);
    assert!(c.try_reserve(1000).is_some());
}

/// Goal: those that hold something get more in turn, not in the order in which their streams asked.
#[test]
fn connections_take_turns() {
    let budget = budget(100);
    let (a, b) = (budget.account(), budget.account());
    let (held_a, held_b) = (a.charge(30), b.charge(30));
    let other = budget.account().charge(40);
    let mut of_a: Vec<_> = (0..9).map(|_| Box::pin(a.reserve(2))).collect();
    let mut of_b: Vec<_> = (0..9).map(|_| Box::pin(b.reserve(2))).collect();
    for waiting in of_a.iter_mut().chain(&mut of_b) {
        assert!(waiting.now_or_never().is_none());
    }
    // 40 - 2n are left while each holds 30 + n: one more page for one, and one for the other.
    drop(other);
    let got_a: Vec<_> = of_a.iter_mut().map_while(|waiting| waiting.now_or_never()).collect();
    let got_b: Vec<_> = of_b.iter_mut().map_while(|waiting| waiting.now_or_never()).collect();
    assert_eq!((got_a.len(), got_b.len()), (2, 1));
    drop((held_a, held_b, got_a, got_b));
}

/// Goal: nothing is lost with a waiter that is gone, before its grant or after it.
#[test]
fn a_waiter_that_is_gone_takes_nothing_along() {
    let budget = budget(100);
    let (a, b, c) = (budget.account(), budget.account(), budget.account());
    let held = a.charge(100);
    let mut gone = Box::pin(b.reserve(80));
    let mut next = Box::pin(c.reserve(50));
    assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
    drop(held);
    assert_eq!(used(&budget), 80, "granted, and not received yet");
    drop(gone);
    let permit = next.now_or_never().expect("it is its turn");
    assert_eq!(used(&budget), 50);
    let mut gone = Box::pin(b.reserve(80));
    let mut next = Box::pin(a.reserve(50));
    assert!(gone.as_mut().now_or_never().is_none() && next.as_mut().now_or_never().is_none());
    drop(gone);
    assert!(next.now_or_never().is_some(), "it waited only behind the one that is gone");
    drop(permit);
    assert_eq!(used(&budget), 0);
}

/// Goal: while a connection that holds nothing waits, streams without progress have less time.
#[test]
fn patience_is_short_while_others_wait() {
    let budget = budget(100);
    let (a, b) = (budget.account(), budget.account());
    let held = a.charge(100);
    assert_eq!(budget.patience(), Duration::from_secs(60));
    let mut waiting = Box::pin(b.reserve(1));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(budget.patience(), Duration::from_secs(10));
    drop((waiting, held));
    assert_eq!(budget.patience(), Duration::from_secs(60));
}
