//! AWS's XML, read: elements with a text or with others in them. Attributes mean nothing there.

use anyhow::{Context as _, bail};
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};

/// Beyond any answer.
const DEPTH_MAX: usize = 64;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a document, which has one outermost element.
    ///
    /// # Errors
    /// When it is no document.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().context("the answer is not XML")?;
            let Some(current) = open.last_mut() else { bail!("the answer closes what it has not opened") };
            match event {
                Event::Start(start) => {
                    let name = start.name();
                    let name = String::from_utf8_lossy(name.local_name().into_inner()).into_owned();
                    open.push(Self { name, ..Self::default() });
                    if open.len() > DEPTH_MAX {
                        bail!("the answer is nested too deeply");
                    }
                }
                Event::Empty(start) => {
                    let name = start.name();
                    let name = String::from_utf8_lossy(name.local_name().into_inner()).into_owned();
                    current.children.push(Self { name, ..Self::default() });
                }
                Event::End(_) => {
                    let Some(closed) = open.pop() else { bail!("the answer closes what it has not opened") };
                    let Some(parent) = open.last_mut() else {
                        bail!("the answer closes what it has not opened")
                    };
                    parent.children.push(closed);
                }
                Event::Text(text) => current.text.push_str(&text.decode().context("the answer is no text")?),
                Event::CData(text) => current.text.push_str(&text.decode().context("the answer is no text")?),
                Event::GeneralRef(reference) => current.text.push_str(&resolve(&reference)?),
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        match open.pop() {
            Some(root) if open.is_empty() => root.children.into_iter().next().context("the answer is empty"),
            _ => bail!("the answer ends too early"),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The element at a path of names: the first one of each name.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.children.iter().find(|child| child.name == *name))
    }

    /// The text at a path, if there is one that is not empty.
    pub(crate) fn text(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.trim()).filter(|text| !text.is_empty())
    }

    /// The items of the list at a path.
    pub(crate) fn items(&self, path: &[&str]) -> &[Self] {
        self.at(path).map_or(&[], |list| &list.children)
    }
}

fn resolve(reference: &BytesRef<'_>) -> anyhow::Result<String> {
    if let Some(character) = reference.resolve_char_ref().context("the answer is no text")? {
        return Ok(character.to_string());
    }
    let name = reference.decode().context("the answer is no text")?;
    resolve_predefined_entity(&name).map(str::to_owned).with_context(|| format!("there is no &{name};"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_their_names() {
        let text = "<?xml version=\"1.0\"?>\n<A xmlns=\"x\"><set><item><v>1 &lt; 2 &#65;</v></item><item/></set><e></e></A>";
        let root = Element::parse(text).unwrap();
        assert_eq!(root.name(), "A");
        let items = root.items(&["set"]);
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].text(&["v"]), Some("1 < 2 A"));
        assert_eq!((items[1].text(&["v"]), root.text(&["e"])), (None, None));
        assert!(root.items(&["nothing"]).is_empty());
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["", "<a>", "</a>", "<a></b>", "<a>&nothing;</a>", &"<a>".repeat(100)] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
