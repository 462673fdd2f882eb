//! What a command prints: raw text for people and pipes, JSON lines for programs.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kvorum_client::{Event, EventKind, KeyValue};
use serde_json::{Map, Value, json};

use crate::args::Format;
use crate::failure::{Failure, colour};

/// The standard output.
pub struct Output {
    format: Format,
    stdout: BufWriter<Stdout>,
}

impl Output {
    /// In this format.
    pub fn new(format: Format) -> Output {
        Output { format, stdout: BufWriter::new(io::stdout()) }
    }

    /// JSON is wanted.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// A person watches.
    pub fn terminal(&self) -> bool {
        self.stdout.get_ref().is_terminal()
    }

    /// Colours are welcome.
    pub fn colour(&self) -> bool {
        colour(self.stdout.get_ref())
    }

    /// Where everything goes.
    pub fn stdout(&mut self) -> &mut impl Write {
        &mut self.stdout
    }

    /// Prints a line of text, or the object where JSON is wanted.
    pub fn line(&mut self, text: impl AsRef<str>, object: Value) -> Result<(), Failure> {
        match self.format {
            Format::Text => writeln!(self.stdout, "{}", text.as_ref())?,
            Format::Json => self.object(&object)?,
        }
        Ok(())
    }

    /// Prints an object on a line of its own.
    pub fn object(&mut self, object: &Value) -> Result<(), Failure> {
        writeln!(self.stdout, "{object}")?;
        Ok(())
    }

    /// Prints bytes as they are. A terminal gets a line end that the bytes lack; a pipe does not.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stdout.write_all(bytes)?;
        if self.terminal() && !bytes.ends_with(b"\n") {
            self.stdout.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Prints fields with tabs between them, on a line of their own.
    pub fn fields(&mut self, fields: &[&[u8]]) -> Result<(), Failure> {
        for (i, field) in fields.iter().enumerate() {
            if i > 0 {
                self.stdout.write_all(b"\t")?;
            }
            self.stdout.write_all(field)?;
        }
        self.stdout.write_all(b"\n")?;
        Ok(())
    }

    /// Lets the reader have what was printed so far.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }
}

/// Adds bytes to an object: as text, null if they are no UTF-8, and as base64.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    object.insert(name.to_owned(), std::str::from_utf8(bytes).map_or(Value::Null, Value::from));
    object.insert(format!("{name}_base64"), BASE64.encode(bytes).into());
}

/// Whether an object shows the value beside the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Both.
    KeyAndValue,
    /// The key alone.
    Key,
}

/// A key as a JSON object.
pub fn kv_object(kv: &KeyValue, show: Show) -> Map<String, Value> {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &kv.key);
    if show == Show::KeyAndValue {
        insert_bytes(&mut object, "value", &kv.value);
    }
    object.insert("create_revision".to_owned(), kv.create_revision.into());
    object.insert("mod_revision".to_owned(), kv.mod_revision.into());
    object.insert("version".to_owned(), kv.version.into());
    if let Some(deadline_ms) = kv.deadline_ms {
        object.insert("deadline_ms".to_owned(), deadline_ms.into());
    }
    object
}

/// A change as a JSON object.
pub fn event_object(event: &Event) -> Value {
    let mut object = Map::new();
    match event.kind {
        EventKind::Put => {
            object.insert("type".to_owned(), "put".into());
            object.extend(kv_object(&event.kv, Show::KeyAndValue));
        }
        EventKind::Delete => {
            object.insert("type".to_owned(), "delete".into());
            insert_bytes(&mut object, "key", &event.kv.key);
            object.insert("mod_revision".to_owned(), event.kv.mod_revision.into());
        }
    }
    if let Some(previous) = &event.previous {
        object.insert("previous".to_owned(), kv_object(previous, Show::KeyAndValue).into());
    }
    Value::Object(object)
}

/// A node's or cluster's id as it is printed everywhere. JSON has it as text too, since many readers
/// of JSON round large numbers.
pub fn id(id: u64) -> String {
    format!("{id:016x}")
}

/// An object with a revision alone.
pub fn revision_object(revision: u64) -> Value {
    json!({ "revision": revision })
}
