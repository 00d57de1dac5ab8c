//! Bytes of Kafka records to Arrow columns and back.
//!
//! This crate does no I/O and keeps no state beyond what makes the next record faster. The engine drives it in one
//! loop: decode each payload into a [`RowBuilder`], finish the batch, transform it, encode the result row by row.
//!
//! Invariants that the engine relies on:
//! - A record that cannot be decoded leaves the builder exactly as it was and yields a [`DecodeError`].
//! - No input makes this crate panic, recurse without bound, or take memory beyond a multiple of the input's length.
//! - What an encoder writes, the decoder of the same schema reads back as the same values.
//!
//! Honest limits: no Protobuf; decimals of at most 38 digits; no Avro or JSON Schema references to other subjects.

// Bad data must never end the process.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod avro;
mod builder;
mod calendar;
mod cause;
mod change;
mod codec;
mod column;
mod csv;
mod ipc;
mod json;
mod json_encode;
mod json_schema;
mod key;
mod masked;
mod member;
mod number;
mod raw;
mod scan;
mod view;

pub use avro::{
    AvroChanges, AvroDecoder, AvroEncoder, AvroReader, AvroRows, arrow_to_avro, avro_record_name, avro_to_arrow, changed_columns,
    with_connect_types,
};
pub use builder::RowBuilder;
pub use cause::DecodeError;
pub use change::{Change, ChangeDecoder, ChangedRow, Operation};
pub use codec::{Decoder, Encoded, Encoder, json_payload};
pub use csv::{CsvDecoder, CsvDialect, CsvEncoder};
pub use ipc::{decode_batch, encode_batch};
pub use json::JsonDecoder;
pub use json_encode::{JsonEncoder, JsonRows};
pub use json_schema::json_schema_to_arrow;
pub use key::{KeyEncoder, murmur2, partition};
pub use raw::{RawDecoder, RawEncoder};
