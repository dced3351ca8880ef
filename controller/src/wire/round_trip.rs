//! What is read of a message and written again is the same message.

use std::fmt::Debug;

use holdfast_proto::v1;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::number::Number;
use crate::model::agent::Agent;
use crate::model::job::quiesced::ContainerQuiesced;
use crate::model::job::restore::{RestoreFinished, RestorePhase, RestoreProgress};
use crate::model::job::source::{SourceFinished, SourcePhase};
use crate::model::job::{JobKind, State};
use crate::model::source::SourceKind;
use crate::model::upgrade::{UpgradeOptions, UpgradePlan, UpgradeRequest, UpgradeState, UpgradeStep};
use crate::policy::{Consistency, NestedMounts, TornPolicy};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(holdfast_proto::FILE_DESCRIPTOR_SET).expect("descriptors")
}

/// Any message of this kind, with one field of each `oneof`.
fn any_message(of: &MessageDescriptor) -> BoxedStrategy<DynamicMessage> {
    let alone = of.fields().filter(|field| field.containing_oneof().is_none()).map(|field| any_field(&field));
    let one_of = of.oneofs().map(|oneof| {
        let chosen = oneof.fields().map(|field| {
            any_value(&field.kind()).prop_map(move |value| Some((field.clone(), value))).boxed()
        });
        Union::new(chosen).boxed()
    });
    let fields: Vec<_> = alone.chain(one_of).collect();
    let of = of.clone();
    fields
        .prop_map(move |fields| {
            let mut message = DynamicMessage::new(of.clone());
            for (field, value) in fields.into_iter().flatten() {
                message.set_field(&field, value);
            }
            message
        })
        .boxed()
}

/// A field with a value; `None`: it is not set.
fn any_field(field: &FieldDescriptor) -> BoxedStrategy<Option<(FieldDescriptor, Value)>> {
    let values = if field.is_map() {
        let texts = btree_map(any::<String>().prop_map(MapKey::String), any_value(&Kind::String), 0..3);
        texts.prop_map(|map| Value::Map(map.into_iter().collect())).boxed()
    } else if field.cardinality() == Cardinality::Repeated {
        vec(any_value(&field.kind()), 0..3).prop_map(Value::List).boxed()
    } else {
        any_value(&field.kind())
    };
    let field = field.clone();
    prop::option::of(values.prop_map(move |value| (field.clone(), value))).boxed()
}

fn any_value(kind: &Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Int64 => any::<i64>().prop_map(Value::I64).boxed(),
        Kind::Uint32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Uint64 => any::<u64>().prop_map(Value::U64).boxed(),
        Kind::String => any::<String>().prop_map(Value::String).boxed(),
        Kind::Enum(words) => {
            let numbers: Vec<i32> = words.values().map(|word| word.number()).collect();
            select(numbers).prop_map(Value::EnumNumber).boxed()
        }
        Kind::Message(of) => any_message(of).prop_map(Value::Message).boxed(),
        other => panic!("no message that goes both ways has a field of {other:?}"),
    }
}

/// Holds for any message of that name.
fn comes_back<M, D>(name: &str)
where
    M: Message + Default + Clone + Debug + PartialEq + From<D>,
    D: From<M>,
{
    let descriptor = pool().get_message_by_name(&format!("holdfast.v1.{name}")).expect("a message");
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let holds = runner.run(&any_message(&descriptor), |message| {
        let message: M = message.transcode_to().expect("the message's own descriptor");
        prop_assert_eq!(M::from(D::from(message.clone())), message);
        Ok(())
    });
    holds.unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Holds for every number of an enum; one that is none is not known.
fn numbers_come_back<D: Number + Debug>(name: &str) {
    let words = pool().get_enum_by_name(&format!("holdfast.v1.{name}")).expect("an enum");
    for word in words.values() {
        let known = D::known(word.number()).unwrap_or_else(|| panic!("{} is not known", word.name()));
        assert_eq!(known.number(), word.number(), "{}", word.name());
    }
    assert!(D::known(77).is_none(), "{name}");
}

#[test]
fn messages_come_back_as_they_were() {
    comes_back::<v1::Agent, Agent>("Agent");
    comes_back::<v1::ContainerQuiesced, ContainerQuiesced>("ContainerQuiesced");
    comes_back::<v1::RestoreFinished, RestoreFinished>("RestoreFinished");
    comes_back::<v1::RestoreProgress, RestoreProgress>("RestoreProgress");
    comes_back::<v1::SourceFinished, SourceFinished>("SourceFinished");
    comes_back::<v1::UpgradeOptions, UpgradeOptions>("UpgradeOptions");
    comes_back::<v1::UpgradePlan, UpgradePlan>("UpgradePlan");
    comes_back::<v1::UpgradeStep, UpgradeStep>("UpgradeStep");
}

#[test]
fn numbers_come_back_as_they_were() {
    numbers_come_back::<Option<Consistency>>("Consistency");
    numbers_come_back::<Option<JobKind>>("JobKind");
    numbers_come_back::<Option<NestedMounts>>("NestedMounts");
    numbers_come_back::<Option<RestorePhase>>("RestorePhase");
    numbers_come_back::<Option<SourceKind>>("SourceKind");
    numbers_come_back::<Option<SourcePhase>>("SourcePhase");
    numbers_come_back::<Option<State>>("JobState");
    numbers_come_back::<Option<TornPolicy>>("TornPolicy");
    numbers_come_back::<UpgradeState>("UpgradeState");
}

/// A request that says nothing of options asks for the default ones.
#[test]
fn requests_come_back_as_they_were() {
    let options = v1::UpgradeOptions { steady_seconds: 1, ..v1::UpgradeOptions::default() };
    let request = v1::PlanUpgradeRequest {
        image: "app:2".into(),
        pull: true,
        options: Some(options),
        container: "app".into(),
    };
    assert_eq!(v1::PlanUpgradeRequest::from(UpgradeRequest::from(request.clone())), request);
    let of_nothing = UpgradeRequest::from(v1::PlanUpgradeRequest::default());
    assert_eq!(of_nothing, UpgradeRequest::default());
}
