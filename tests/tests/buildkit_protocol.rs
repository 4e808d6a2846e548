//! Our subset of BuildKit's API compared with what the pinned daemon itself says by reflection: every message,
//! enumeration and method of ours exists there, with the same numbers, types and labels.
//!
//! Reflection lists only the services that the daemon serves; the session's, which it calls on us, are found by
//! their full names all the same.

mod buildkit_support;

use std::collections::{BTreeMap, BTreeSet};

use buildkit_support::Bench;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// Fields that are `bytes` here and `string` there: file names need not be UTF-8.
const BYTES_FOR_STRING: &[&str] =
    &["fsutil.types.Stat.path", "fsutil.types.Stat.linkname", "fsutil.types.Xattr.key"];

/// Messages that have another name there. A map is a list of entries on the wire.
const OTHER_MESSAGES: &[(&str, &str)] = &[("fsutil.types.Xattr", "fsutil.types.Stat.XattrsEntry")];

/// Fields with a longer or shorter name here: ours → theirs. Any other difference in name is an error, because
/// a name is all that tells two fields of one type apart.
const OTHER_NAMES: &[(&str, &str)] = &[("reference", "ref")];

/// Everything defined in some files, by full name.
#[derive(Clone, Default)]
struct Definitions {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    services: BTreeMap<String, ServiceDescriptorProto>,
}

impl Definitions {
    fn add(&mut self, file: FileDescriptorProto) {
        let package = file.package().to_owned();
        for message in file.message_type {
            self.add_message(&package, message);
        }
        for definition in file.enum_type {
            self.enums.insert(format!("{package}.{}", definition.name()), definition);
        }
        for service in file.service {
            self.services.insert(format!("{package}.{}", service.name()), service);
        }
    }

    fn add_message(&mut self, outer: &str, message: DescriptorProto) {
        let name = format!("{outer}.{}", message.name());
        for inner in &message.nested_type {
            self.add_message(&name, inner.clone());
        }
        for inner in &message.enum_type {
            self.enums.insert(format!("{name}.{}", inner.name()), inner.clone());
        }
        self.messages.insert(name, message);
    }

    fn names(&self) -> BTreeSet<String> {
        self.messages.keys().chain(self.enums.keys()).chain(self.services.keys()).cloned().collect()
    }
}

/// Our own definitions, without Google's.
fn ours() -> Definitions {
    let set = FileDescriptorSet::decode(proto::buildkit::FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let mut definitions = Definitions::default();
    set.file.into_iter().filter(|f| f.package() != "google.protobuf").for_each(|file| definitions.add(file));
    definitions
}

/// What the daemon says about each name; names that it does not know are left out.
async fn theirs(channel: Channel, names: &BTreeSet<String>) -> Definitions {
    let mut client = ServerReflectionClient::new(channel).max_decoding_message_size(32 << 20);
    let requests: Vec<_> = names
        .iter()
        .map(|name| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(name.clone())),
        })
        .collect();
    let stream = client.server_reflection_info(tokio_stream::iter(requests)).await;
    let mut answers = stream.expect("the daemon has reflection").into_inner();
    let mut definitions = Definitions::default();
    while let Some(answer) = answers.message().await.expect("reflection goes on") {
        match answer.message_response.expect("an answer") {
            MessageResponse::FileDescriptorResponse(files) => {
                for file in files.file_descriptor_proto {
                    definitions.add(FileDescriptorProto::decode(file.as_slice()).expect("a descriptor"));
                }
            }
            MessageResponse::ErrorResponse(error) => eprintln!("reflection: {}", error.error_message),
            other => panic!("{other:?}"),
        }
    }
    definitions
}

fn their_name(name: &str) -> &str {
    OTHER_MESSAGES.iter().find(|(own, _)| *own == name).map_or(name, |(_, other)| other)
}

/// A name without underscores and capitals.
fn plain(name: &str) -> String {
    let name = OTHER_NAMES.iter().find(|(own, _)| *own == name).map_or(name, |(_, other)| other);
    name.replace('_', "").to_lowercase()
}

fn same_type(own: &FieldDescriptorProto, other: &FieldDescriptorProto, name: &str) -> bool {
    let bytes = own.r#type() == Type::Bytes && other.r#type() == Type::String;
    let wanted = own.type_name().trim_start_matches('.');
    let same =
        own.r#type() == other.r#type() && their_name(wanted) == other.type_name().trim_start_matches('.');
    if BYTES_FOR_STRING.contains(&name) { bytes } else { same }
}

fn compare_messages(ours: &Definitions, theirs: &Definitions, problems: &mut Vec<String>) {
    for (name, own) in &ours.messages {
        let Some(other) = theirs.messages.get(their_name(name)) else {
            problems.push(format!("message {name} is not there"));
            continue;
        };
        for field in &own.field {
            let full = format!("{name}.{}", field.name());
            let Some(their) = other.field.iter().find(|f| f.number() == field.number()) else {
                problems.push(format!("{full} = {}: no such number", field.number()));
                continue;
            };
            if plain(field.name()) != plain(their.name()) {
                problems.push(format!("{full} = {} is called {} there", field.number(), their.name()));
            }
            if !same_type(field, their, &full) {
                problems.push(format!(
                    "{full} is {:?} {}, there {:?} {}",
                    field.r#type(),
                    field.type_name(),
                    their.r#type(),
                    their.type_name()
                ));
            }
            let repeated = |f: &FieldDescriptorProto| f.label() == Label::Repeated;
            if repeated(field) != repeated(their) {
                problems.push(format!("{full} is {:?}, there {:?}", field.label(), their.label()));
            }
            if field.oneof_index.is_some() && their.oneof_index.is_none() {
                problems.push(format!("{full} is one of several, there it is not"));
            }
        }
    }
}

fn compare_enums(ours: &Definitions, theirs: &Definitions, problems: &mut Vec<String>) {
    for (name, own) in &ours.enums {
        let Some(other) = theirs.enums.get(name) else {
            problems.push(format!("enumeration {name} is not there"));
            continue;
        };
        // All of them: a value that we do not know would be taken for another.
        let values = |e: &EnumDescriptorProto| -> BTreeMap<i32, String> {
            e.value.iter().map(|v| (v.number(), v.name().to_owned())).collect()
        };
        if values(own) != values(other) {
            problems.push(format!("{name} is {:?}, there {:?}", values(own), values(other)));
        }
    }
}

fn compare_services(ours: &Definitions, theirs: &Definitions, problems: &mut Vec<String>) {
    for (name, own) in &ours.services {
        let Some(other) = theirs.services.get(name) else {
            problems.push(format!("service {name} is not there"));
            continue;
        };
        for method in &own.method {
            if !other.method.iter().any(|m| {
                (m.name(), m.input_type(), m.output_type(), m.client_streaming(), m.server_streaming())
                    == (
                        method.name(),
                        method.input_type(),
                        method.output_type(),
                        method.client_streaming(),
                        method.server_streaming(),
                    )
            }) {
                problems.push(format!("method {name}/{} is not there like this", method.name()));
            }
        }
    }
}

fn compare(ours: &Definitions, theirs: &Definitions) -> Vec<String> {
    let mut problems = Vec::new();
    compare_messages(ours, theirs, &mut problems);
    compare_enums(ours, theirs, &mut problems);
    compare_services(ours, theirs, &mut problems);
    problems
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_field_and_method_of_ours_is_the_daemons() {
    let bench = Bench::new();
    let daemon = bench.daemon().await;
    let ours = ours();
    let wanted = ours.names().iter().map(|name| their_name(name).to_owned()).collect();
    let theirs = theirs(daemon.channel().channel(), &wanted).await;
    bench.engine.shutdown().await;
    let problems = compare(&ours, &theirs);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // What the whole rests on: the daemon has definitions of what it serves, and of what it asks of a session.
    for service in ["moby.buildkit.v1.Control", "moby.filesync.v1.FileSync", "moby.sshforward.v1.SSH"] {
        assert!(theirs.services.contains_key(service) && ours.services.contains_key(service), "{service}");
    }
    assert!(ours.messages.len() > 50, "{} messages of ours", ours.messages.len());
    each_kind_of_difference_is_found(&ours, &theirs);
}

/// The comparison itself, with one thing changed in what the daemon said.
fn each_kind_of_difference_is_found(ours: &Definitions, theirs: &Definitions) {
    let with = |change: &dyn Fn(&mut Definitions)| {
        let mut changed = theirs.clone();
        change(&mut changed);
        compare(ours, &changed)
    };
    fn field(all: &mut Definitions, number: i32) -> &mut FieldDescriptorProto {
        let message = all.messages.get_mut("moby.buildkit.v1.Descriptor").expect("known");
        message.field.iter_mut().find(|f| f.number() == number).expect("known")
    }
    let number = with(&|all| field(all, 1).number = Some(77));
    assert_eq!(number, ["moby.buildkit.v1.Descriptor.media_type = 1: no such number"]);
    let kind = with(&|all| field(all, 3).set_type(Type::Uint64));
    assert_eq!(kind, ["moby.buildkit.v1.Descriptor.size is Int64 , there Uint64 "]);
    let name = with(&|all| field(all, 2).name = Some("size".to_owned()));
    assert_eq!(name, ["moby.buildkit.v1.Descriptor.digest = 2 is called size there"]);
    let label = with(&|all| field(all, 2).set_label(Label::Repeated));
    assert_eq!(label, ["moby.buildkit.v1.Descriptor.digest is Optional, there Repeated"]);
    let value = with(&|all| {
        all.enums.get_mut("moby.buildkit.v1.sourcepolicy.PolicyAction").expect("known").value.pop();
    });
    assert_eq!(value.len(), 1, "{value:?}");
    let method = with(&|all| {
        let control = all.services.get_mut("moby.buildkit.v1.Control").expect("known");
        control
            .method
            .iter_mut()
            .filter(|m| m.name() == "Status")
            .for_each(|m| m.server_streaming = Some(false));
    });
    assert_eq!(method, ["method moby.buildkit.v1.Control/Status is not there like this"]);
}
