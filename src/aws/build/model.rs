//! A reduced model, as `models/reduce.py` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Model {
    pub metadata: Metadata,
    pub unserved: Vec<String>,
    pub operations: Vec<Operation>,
    pub errors: Vec<Failure>,
    #[serde(rename = "shapes")]
    listed: Vec<Shape>,
    #[serde(skip)]
    pub shapes: BTreeMap<String, Shape>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub api_version: String,
    pub endpoint_prefix: String,
    pub signing_name: Option<String>,
    pub service_id: String,
    #[serde(default)]
    pub xml_namespace: String,
    #[serde(default)]
    pub target_prefix: String,
    #[serde(default)]
    pub json_version: String,
    pub protocols: Vec<String>,
    pub is_for_tests: bool,
    pub is_query_compatible: bool,
}

#[derive(Deserialize)]
pub struct Operation {
    pub name: String,
    pub http: Http,
    pub input: Option<String>,
    pub output: Option<String>,
    pub pages: Option<Pages>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    pub method: String,
    pub request_uri: String,
    #[serde(default = "ok")]
    pub response_code: u16,
}

fn ok() -> u16 {
    200
}

/// The members that say which page is asked for and which is next.
#[derive(Deserialize)]
pub struct Pages {
    pub token: String,
    pub next: String,
    pub limit: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub name: String,
    pub code: Option<String>,
    pub http_status_code: Option<u16>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Structure,
    List,
    Map,
    String,
    Integer,
    Long,
    Float,
    Double,
    Boolean,
    Timestamp,
    Blob,
}

#[derive(Deserialize)]
pub struct Shape {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    #[serde(rename = "enum", default)]
    pub words: Vec<String>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    #[serde(default)]
    pub flattened: bool,
    #[serde(rename = "in")]
    pub is_in: bool,
    #[serde(rename = "out")]
    pub is_out: bool,
    /// It is read and written also where no operation does.
    #[serde(rename = "kept", default)]
    pub is_kept: bool,
    /// What a list holds.
    pub member: Option<Reference>,
    /// What a map holds.
    pub key: Option<Reference>,
    pub value: Option<Reference>,
    /// What a structure holds.
    #[serde(default)]
    pub members: Vec<Member>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    pub shape: String,
    pub location_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub name: String,
    pub shape: String,
    pub location_name: Option<String>,
    pub query_name: Option<String>,
    pub location: Option<String>,
    #[serde(default)]
    pub idempotency_token: bool,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub unserved: bool,
}

impl Model {
    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let mut model: Self = serde_json::from_slice(&fs::read(path)?)?;
        model.shapes =
            std::mem::take(&mut model.listed).into_iter().map(|shape| (shape.name.clone(), shape)).collect();
        Ok(model)
    }

    pub fn is_ec2(&self) -> bool {
        self.metadata.protocols.iter().any(|protocol| protocol == "ec2")
    }

    pub fn shape(&self, name: &str) -> &Shape {
        self.shapes.get(name).unwrap_or_else(|| panic!("the model refers to {name}, which it does not have"))
    }

    /// Members of a structure that are fields of its type: a member that no input may have is left out, where nothing writes it.
    pub fn fields<'a>(&self, shape: &'a Shape) -> impl Iterator<Item = &'a Member> {
        shape.members.iter().filter(|member| shape.is_out || !member.unserved)
    }

    /// Whether a structure holds itself, not counting through lists and maps.
    pub fn is_recursive(&self, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![name];
        while let Some(at) = next.pop() {
            for member in self.fields(self.shape(at)) {
                if member.shape == name {
                    return true;
                }
                if self.shape(&member.shape).kind == Kind::Structure && seen.insert(member.shape.as_str()) {
                    next.push(&member.shape);
                }
            }
        }
        false
    }
}
