//! The formats seen from outside: decoders against independent implementations, encoders against decoders, and
//! everything against hostile input.

mod avro;
mod avro_changes;
mod avro_oracle;
mod columns;
mod csv;
mod encode;
mod ipc;
mod json;
mod json_numbers;
mod json_oracle;
mod poison;
