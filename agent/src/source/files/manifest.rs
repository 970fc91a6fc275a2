//! From the text of a file to what it says: documents cut, told apart by kind, and converted one by one.

use std::sync::Arc;

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    pod::{PodDraft, pod},
    service::{ServiceDraft, service},
};
use crate::{
    model::{EndpointSlice, Namespace, Node, ObjectName, Problem},
    source::convert,
};

/// One document of a file, or one item of a list in it.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    /// Where it begins in its file, counted from 1.
    pub(super) line: usize,
    /// Kind, for people.
    pub(super) kind: String,
    /// The namespace is filled in where the kind has one.
    pub(super) name: ObjectName,
    pub(super) content: Content,
    pub(super) problems: Vec<Problem>,
}

/// What a document says, reduced to what is used of it.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Service(Arc<ServiceDraft>),
    EndpointSlice(Arc<EndpointSlice>),
    /// Endpoints, already mirrored.
    Endpoints(Vec<Arc<EndpointSlice>>),
    Pod(Arc<PodDraft>),
    Namespace(Namespace),
    Node(Arc<Node>),
    /// A kind that says nothing to us, or an object that cannot be used.
    Nothing,
}

/// Something in a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// Counted from 1; 0 for the file as a whole.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// A document that is not parsed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Where it begins in its file, counted from 1.
    pub(super) line: usize,
    pub(super) text: &'a str,
}

/// Cuts a YAML stream (or a JSON text) into documents. A line that begins with three hyphens is a border wherever it
/// stands (YAML 1.2.2 §9.1.2), so nothing needs to be parsed for it.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut line) = (0, 1);
    let mut at = 0;
    for (index, content) in text.split_inclusive('\n').enumerate() {
        let rest = content.strip_prefix("---");
        if rest.is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace)) {
            documents.push(Document {
                line,
                text: &text[start..at],
            });
            (start, line) = (at, index + 1);
        }
        at += content.len();
    }
    documents.push(Document {
        line,
        text: &text[start..],
    });
    documents.retain(|document| document.text.lines().any(says_something));
    documents
}

/// Parses and converts a document.
pub(super) fn parse(document: Document<'_>) -> Result<Vec<Manifest>, Unreadable> {
    let yaml = Yaml(document);
    let kind = match block_kind(document.text) {
        Some(kind) => kind,
        None => yaml.parse()?,
    };
    convert_one(&kind, &yaml)
}

const IGNORED: [&str; 14] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Event",
    "Kustomization",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "Status",
];

/// What an object is parsed from: a YAML document, or an item of a list.
trait Origin {
    fn line(&self) -> usize;
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Unreadable>;
}

struct Yaml<'a>(Document<'a>);

impl Origin for Yaml<'_> {
    fn line(&self) -> usize {
        self.0.line
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        let text = self.0.text;
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text).map_err(|error| Unreadable {
                line: self.0.line + error.line().saturating_sub(1),
                reason: error.to_string(),
            });
        }
        // A list of ten thousand objects is an honest document. What guards against bombs of aliases stays.
        let options = serde_saphyr::options! {
            with_snippet: false,
            emit_comments: false,
            budget: serde_saphyr::budget! {
                max_events: 100_000_000,
                max_nodes: 50_000_000,
                max_total_scalar_bytes: 1 << 30,
            },
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            Unreadable {
                line: self.0.line + usize::try_from(line).unwrap_or(1).saturating_sub(1),
                reason: error.to_string(),
            }
        })
    }
}

struct Item {
    line: usize,
    value: serde_json::Value,
}

impl Origin for Item {
    fn line(&self) -> usize {
        self.line
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        T::deserialize(&self.value).map_err(|error| Unreadable {
            line: self.line,
            reason: error.to_string(),
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    items: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Unknown {
    #[serde(default)]
    metadata: ObjectMeta,
}

fn convert_one(of: &TypeMeta, from: &impl Origin) -> Result<Vec<Manifest>, Unreadable> {
    let manifest = match (&*of.api_version, &*of.kind) {
        ("v1", "Service") => {
            let mut object: core::Service = from.parse()?;
            let name = namespaced(&mut object.metadata);
            let (draft, problems) = service(&object);
            let content = draft.map(|draft| Content::Service(Arc::new(draft)));
            (name, content, problems)
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let mut object: discovery::EndpointSlice = from.parse()?;
            let name = namespaced(&mut object.metadata);
            let (slice, problems) = convert::slice(&object);
            let content = slice.map(|slice| Content::EndpointSlice(Arc::new(slice)));
            (name, content, problems)
        }
        ("v1", "Endpoints") => {
            let mut object: core::Endpoints = from.parse()?;
            let name = namespaced(&mut object.metadata);
            let (slices, problems) = convert::endpoints(&object);
            let mirrored = convert::is_mirrored(&object)
                .then(|| Content::Endpoints(slices.into_iter().map(Arc::new).collect()));
            (name, mirrored, problems)
        }
        ("v1", "Pod") => {
            let mut object: core::Pod = from.parse()?;
            let name = namespaced(&mut object.metadata);
            let (draft, problems) = pod(&object);
            (name, Some(Content::Pod(Arc::new(draft))), problems)
        }
        ("v1", "Namespace") => {
            let object: core::Namespace = from.parse()?;
            let (namespace, problems) = convert::namespace(&object);
            let content = namespace.map(Content::Namespace);
            let name = ObjectName::new("", convert::name(&object.metadata).name);
            (name, content, problems)
        }
        ("v1", "Node") => {
            let object: core::Node = from.parse()?;
            let (node, problems) = convert::node(&object);
            let name = ObjectName::new("", convert::name(&object.metadata).name);
            (
                name,
                node.map(|node| Content::Node(Arc::new(node))),
                problems,
            )
        }
        (_, "") => {
            return Err(Unreadable {
                line: from.line(),
                reason: "the document has no kind".to_owned(),
            });
        }
        (_, kind) if kind == "List" || is_list_of_ours(of) => return list(of, from),
        ("v1", kind) if !IGNORED.contains(&kind) => {
            return Err(Unreadable {
                line: from.line(),
                reason: format!("v1 has no kind {kind:?}"),
            });
        }
        _ => {
            let object: Unknown = from.parse()?;
            (convert::name(&object.metadata), None, Vec::new())
        }
    };
    let (name, content, problems) = manifest;
    Ok(vec![Manifest {
        line: from.line(),
        kind: of.kind.clone(),
        name,
        content: content.unwrap_or(Content::Nothing),
        problems,
    }])
}

fn is_list_of_ours(of: &TypeMeta) -> bool {
    let kinds = [
        ("v1", "ServiceList"),
        ("discovery.k8s.io/v1", "EndpointSliceList"),
        ("v1", "EndpointsList"),
        ("v1", "PodList"),
        ("v1", "NamespaceList"),
        ("v1", "NodeList"),
    ];
    kinds.contains(&(&*of.api_version, &*of.kind))
}

/// The items of a `List` say themselves what they are; those of a `ServiceList` need not.
fn list(of: &TypeMeta, from: &impl Origin) -> Result<Vec<Manifest>, Unreadable> {
    let listed: Listed = from.parse()?;
    let mut manifests = Vec::with_capacity(listed.items.len());
    for value in listed.items {
        let mut kind = TypeMeta::deserialize(&value).unwrap_or_default();
        if kind.kind.is_empty() && of.kind != "List" {
            kind.kind = of.kind.trim_end_matches("List").to_owned();
            kind.api_version.clone_from(&of.api_version);
        }
        let item = Item {
            line: from.line(),
            value,
        };
        manifests.extend(convert_one(&kind, &item)?);
    }
    Ok(manifests)
}

/// `kind` and `apiVersion` of a document in block style, without parsing it.
fn block_kind(text: &str) -> Option<TypeMeta> {
    let field = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let value = value.split(" #").next().unwrap_or_default().trim();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"./-".contains(&b);
        (!value.is_empty() && value.bytes().all(plain)).then(|| value.to_owned())
    };
    Some(TypeMeta {
        api_version: field("apiVersion")?,
        kind: field("kind")?,
    })
}

fn namespaced(meta: &mut ObjectMeta) -> ObjectName {
    let namespace = meta.namespace.get_or_insert_default();
    if namespace.is_empty() {
        "default".clone_into(namespace);
    }
    convert::name(meta)
}

fn says_something(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim_start();
    !line.is_empty() && !line.starts_with('#') && line.trim_end() != "..."
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn kinds(text: &str) -> Vec<(usize, String, String)> {
        documents(text)
            .into_iter()
            .flat_map(|document| parse(document).unwrap())
            .map(|m| (m.line, m.kind, m.name.to_string()))
            .collect()
    }

    fn unreadable(text: &str) -> Unreadable {
        parse(documents(text)[0]).unwrap_err()
    }

    #[test]
    fn a_stream_is_cut_at_its_borders() {
        let text = "# nothing\n---\na: 1\n--- # two\nb: |\n  --- not a border\n---x: 1\n---\n\n...\n--- {c: 3}\n";
        let found: Vec<_> = documents(text).iter().map(|d| (d.line, d.text)).collect();
        assert_eq!(
            found,
            [
                (2, "---\na: 1\n"),
                (4, "--- # two\nb: |\n  --- not a border\n---x: 1\n"),
                (11, "--- {c: 3}\n")
            ]
        );
        assert_eq!(documents("\r\n---\r\n"), []);
    }

    #[test]
    fn objects_of_a_file_are_told_apart() {
        let text = "\
apiVersion: v1
kind: Namespace
metadata: {name: dev}
---
apiVersion: v1
kind: \"Service\" # in quotes
metadata: {name: ent, namespace: dev}
---
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"jump\"}, \"spec\": {\"containers\": []}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: enterprise, namespace: dev}}
";
        let expected = [
            (1, "Namespace", "dev"),
            (4, "Service", "dev/ent"),
            (8, "Pod", "default/jump"),
            (10, "Deployment", "dev/enterprise"),
        ];
        let expected = expected.map(|(l, k, n)| (l, k.to_owned(), n.to_owned()));
        assert_eq!(kinds(text), expected);
    }

    #[rstest]
    #[case(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n"
    )]
    #[case("apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n")]
    #[case(r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}]}"#)]
    fn lists_are_opened(#[case] text: &str) {
        assert_eq!(
            kinds(text),
            [(1, "Service".to_owned(), "default/a".to_owned())]
        );
    }

    #[test]
    fn a_service_of_another_group_is_not_a_service() {
        let text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n";
        let manifests = parse(documents(text)[0]).unwrap();
        assert!(matches!(manifests[0].content, Content::Nothing));
    }

    #[rstest]
    #[case::yaml("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: [a\nspec: {}\n")]
    #[case::type_(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: many}]\n"
    )]
    #[case::json("{\"apiVersion\": \"v1\",\n\n\n\n\"kind\"}")]
    fn an_error_names_its_line(#[case] text: &str) {
        let error = unreadable(text);
        assert!((5..=6).contains(&error.line), "{error:?}");
        assert!(!error.reason.is_empty());
    }

    #[rstest]
    #[case("a: 1\n", "no kind")]
    #[case("apiVersion: v1\nkind: Servce\n", "Servce")]
    fn what_is_no_object_is_said(#[case] text: &str, #[case] reason: &str) {
        let error = unreadable(text);
        assert!(error.reason.contains(reason), "{error:?}");
    }

    #[test]
    fn a_bad_field_is_a_problem_of_the_object_and_not_of_the_file() {
        let text =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}\n";
        let manifests = parse(documents(text)[0]).unwrap();
        assert_eq!(manifests[0].problems[0].field, "spec.ports[0].port");
    }
}
