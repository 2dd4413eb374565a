//! The laws of guarantee vectors, and their four bytes.

use proptest::prelude::*;
use synod_wire::guarantee::{
    Auth, Component, Evidence, Guarantee, GuaranteeBytes, Idempotence, Order, QuorumEvidence, Recency, Scope,
    Visibility,
};
use zerocopy::{IntoBytes, little_endian::U32};

fn recency() -> impl Strategy<Value = Recency> {
    prop_oneof![
        Just(Recency::StalePossible),
        (0..=Recency::MAX_BOUND_MS).prop_map(Recency::BoundedStale),
        (0..8u32).prop_map(Recency::BoundedStale),
        Just(Recency::FreshLease),
        Just(Recency::FreshReadIndex),
    ]
}

fn guarantee() -> impl Strategy<Value = Guarantee> {
    (
        prop::sample::select(Scope::ALL),
        prop::sample::select(Order::ALL),
        prop::sample::select(Visibility::ALL),
        recency(),
        prop::sample::select(Idempotence::ALL),
        prop::sample::select(Auth::ALL),
    )
        .prop_map(|(scope, order, visibility, recency, idempotence, auth)| Guarantee {
            scope,
            order,
            visibility,
            recency,
            idempotence,
            auth,
        })
}

fn evidence() -> impl Strategy<Value = Evidence> {
    prop_oneof![
        Just(Evidence::ChosenPrefix),
        Just(Evidence::Lease),
        Just(Evidence::ReadIndexRound),
        any::<u32>().prop_map(Evidence::StateOfMsAgo),
        Just(Evidence::SessionRecord),
        Just(Evidence::ReadOnly),
        Just(Evidence::MacVerified),
    ]
}

fn component() -> impl Strategy<Value = Component> {
    prop_oneof![
        prop::sample::select(Scope::ALL).prop_map(Component::Scope),
        prop::sample::select(Order::ALL).prop_map(Component::Order),
        prop::sample::select(Visibility::ALL).prop_map(Component::Visibility),
        recency().prop_map(Component::Recency),
        prop::sample::select(Idempotence::ALL).prop_map(Component::Idempotence),
        prop::sample::select(Auth::ALL).prop_map(Component::Auth),
    ]
}

proptest! {
    #[test]
    fn meet_is_associative_commutative_and_idempotent(a in guarantee(), b in guarantee(), c in guarantee()) {
        prop_assert_eq!(a.meet(b).meet(c), a.meet(b.meet(c)));
        prop_assert_eq!(a.meet(b), b.meet(a));
        prop_assert_eq!(a.meet(a), a);
    }

    #[test]
    fn meet_is_the_strongest_that_both_cover(a in guarantee(), b in guarantee(), c in guarantee()) {
        let met = a.meet(b);
        prop_assert!(a.covers(met) && b.covers(met));
        prop_assert_eq!(a.covers(c) && b.covers(c), met.covers(c));
        prop_assert_eq!(a.meet(Guarantee::NONE), Guarantee::NONE);
    }

    #[test]
    fn upgrade_never_weakens_and_keeps_the_order(a in guarantee(), b in guarantee(), proof in evidence()) {
        prop_assert!(a.upgrade(proof).covers(a));
        prop_assert_eq!(a.upgrade(proof).upgrade(proof), a.upgrade(proof));
        prop_assert!(a.upgrade(proof).covers(a.meet(b).upgrade(proof)), "what is below stays below");
    }

    #[test]
    fn downgrade_never_strengthens_keeps_the_order_and_tells_where_it_came_from(
        a in guarantee(), b in guarantee(), to in component(),
    ) {
        let weaker = a.downgrade(to);
        prop_assert_eq!(weaker.from, a);
        prop_assert!(a.covers(weaker.to));
        prop_assert!(weaker.to.covers(a.meet(b).downgrade(to).to), "what is below stays below");
        prop_assert_eq!(weaker.to.downgrade(to).to, weaker.to);
    }

    #[test]
    fn a_downgrade_is_a_meet_and_only_evidence_undoes_it(a in guarantee(), recency in recency(), proof in evidence()) {
        let weaker = a.downgrade(Component::Recency(recency)).to;
        prop_assert_eq!(weaker, a.meet(Guarantee { recency, ..a }));
        let restored = weaker.upgrade(proof);
        prop_assert!(restored.recency == weaker.recency || matches!(
            proof, Evidence::Lease | Evidence::ReadIndexRound | Evidence::StateOfMsAgo(_)));
    }

    #[test]
    fn restrict_and_extend_move_the_scope_alone(a in guarantee()) {
        let narrow = a.restrict(Scope::Replica);
        prop_assert_eq!(narrow, Guarantee { scope: Scope::Replica, ..a });
        prop_assert_eq!(a.restrict(Scope::Group), a, "restricting never widens");
        prop_assert_eq!(narrow.extend(QuorumEvidence), Guarantee { scope: Scope::Group, ..a });
    }

    #[test]
    fn four_bytes_hold_every_vector(a in guarantee()) {
        prop_assert_eq!(a.encode().decode(), Some(a));
        prop_assert_eq!(a.encode().as_bytes().len(), 4);
    }

    #[test]
    fn any_four_bytes_decode_to_themselves_or_to_nothing(bits in any::<u32>()) {
        if let Some(decoded) = GuaranteeBytes(U32::new(bits)).decode() {
            prop_assert_eq!(decoded.encode().0.get(), bits);
        }
    }

    #[test]
    fn a_bound_too_long_for_the_wire_becomes_weaker_and_never_shorter(
        a in guarantee(), ms in Recency::MAX_BOUND_MS + 1..,
    ) {
        let long = Guarantee { recency: Recency::BoundedStale(ms), ..a };
        let told = long.encode().decode().expect("its own encoding");
        prop_assert_eq!(told, Guarantee { recency: Recency::StalePossible, ..a });
        prop_assert!(long.covers(told));
    }

    #[test]
    fn a_longer_bound_is_weaker(a in 0..1000u32, b in 0..1000u32) {
        prop_assert_eq!(Recency::BoundedStale(a).cmp(&Recency::BoundedStale(b)), b.cmp(&a));
    }
}

#[test]
fn the_bytes_are_those_of_the_documented_table() {
    let bits = |guarantee: Guarantee| guarantee.encode().0.get();
    assert_eq!(bits(Guarantee::NONE), 0);
    assert_eq!(bits(Guarantee::COMMITTED), 0b11_00_01_01_01_01);
    assert_eq!(bits(Guarantee::read(Recency::FreshLease)), 0b10_00_10_01_01_01);
    assert_eq!(bits(Guarantee::read(Recency::BoundedStale(250))), 250 << 12 | 0b01_00_10_01_01_00);
    assert_eq!(GuaranteeBytes(U32::new(0b10)).decode(), None, "no such scope");
    assert_eq!(GuaranteeBytes(U32::new(1 << 12)).decode(), None, "a bound without its kind");
}

#[test]
fn a_lease_is_weaker_than_a_round_as_it_rests_on_clocks_too() {
    assert!(Recency::FreshReadIndex > Recency::FreshLease);
    assert!(Recency::FreshLease > Recency::BoundedStale(0));
    assert!(Recency::BoundedStale(Recency::MAX_BOUND_MS) > Recency::StalePossible);
    assert!(Guarantee::read(Recency::FreshReadIndex).covers(Guarantee::read(Recency::FreshLease)));
}

#[test]
fn vectors_read_as_in_the_documentation() {
    let stale = Guarantee::read(Recency::BoundedStale(40));
    assert_eq!(stale.to_string(), "<replica, total, committed, BOUNDED_STALE(40 ms), harmless, unauth>");
    let lowered = Guarantee::read(Recency::FreshLease).downgrade(Component::Recency(Recency::StalePossible));
    assert_eq!(
        lowered.to_string(),
        "<group, total, committed, FRESH(lease), harmless, unauth> lowered to \
         <group, total, committed, STALE_POSSIBLE, harmless, unauth>"
    );
}
