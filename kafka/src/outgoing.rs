//! Handing one record to librdkafka.

use std::ffi::c_void;

use headwater_engine::broker::Outgoing;
use rdkafka::bindings as sys;

use super::codes;
use super::native::{self, ErrorFacts, NativeTopic, raw};
use super::producer::ProducerClient;

/// One attempt to hand a record to librdkafka, which copies it.
pub(super) fn offer(
    client: &ProducerClient,
    topic: *mut NativeTopic,
    record: &Outgoing<'_>,
    headers: *mut sys::rd_kafka_headers_t,
) -> Option<ErrorFacts> {
    let opaque = Opaque::new(record).pointer();
    let (key, key_len) = parts(record.key);
    let (value, value_len) = parts(record.value);
    // SAFETY: client and topic are valid; key and value are null or readable for their lengths, and are copied.
    unsafe {
        if record.timestamp.is_none() && headers.is_null() {
            let flags = sys::RD_KAFKA_MSG_F_COPY;
            let refused = sys::rd_kafka_produce(topic, record.partition, flags, value, value_len, key, key_len, opaque);
            return (refused != 0).then(|| {
                let code = raw::rd_kafka_last_error();
                ErrorFacts { code, fatal: code == codes::FATAL, retriable: false, requires_abort: false, text: native::describe(code) }
            });
        }
        use sys::rd_kafka_vtype_t as V;
        let value = Memory { ptr: value, size: value_len };
        let key = Memory { ptr: key, size: key_len };
        let arguments = [
            argument(V::RD_KAFKA_VTYPE_RKT, Argument { rkt: topic }),
            argument(V::RD_KAFKA_VTYPE_PARTITION, Argument { i32_: record.partition }),
            argument(V::RD_KAFKA_VTYPE_MSGFLAGS, Argument { i: sys::RD_KAFKA_MSG_F_COPY }),
            argument(V::RD_KAFKA_VTYPE_VALUE, Argument { mem: value }),
            argument(V::RD_KAFKA_VTYPE_KEY, Argument { mem: key }),
            argument(V::RD_KAFKA_VTYPE_OPAQUE, Argument { ptr: opaque }),
            argument(V::RD_KAFKA_VTYPE_TIMESTAMP, Argument { i64_: timestamp(record.timestamp) }),
            argument(V::RD_KAFKA_VTYPE_HEADERS, Argument { headers }),
        ];
        let count = if headers.is_null() { arguments.len() - 1 } else { arguments.len() };
        ErrorFacts::take(sys::rd_kafka_produceva(client.ptr(), arguments.as_ptr(), count))
    }
}

/// What travels with a record and comes back with its delivery report, which has no timestamp where it failed: the tag, or else
/// the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opaque {
    Tag(u32),
    /// The timestamp as it was sent, if it has one of its own.
    Time(Option<i64>),
}

impl Opaque {
    fn new(record: &Outgoing<'_>) -> Opaque {
        record.tag.map_or(Opaque::Time(record.timestamp.map(|at| at.max(1))), Opaque::Tag)
    }

    fn pointer(self) -> *mut c_void {
        let number = match self {
            Opaque::Tag(tag) => u64::from(tag) << 1 | 1,
            Opaque::Time(time) => (time.unwrap_or(0) as u64) << 1,
        };
        number as *mut c_void
    }

    pub(super) fn of(pointer: *mut c_void) -> Opaque {
        let number = pointer as u64;
        match number & 1 {
            1 => Opaque::Tag((number >> 1) as u32),
            _ => Opaque::Time(Some((number >> 1) as i64).filter(|at| *at > 0)),
        }
    }
}

type Argument = sys::rd_kafka_vu_s__bindgen_ty_1;
type Memory = sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1;

fn argument(vtype: sys::rd_kafka_vtype_t, u: Argument) -> sys::rd_kafka_vu_t {
    sys::rd_kafka_vu_t { vtype, u }
}

/// librdkafka takes 0 for "now", and other clients cannot read records with a negative timestamp: such times (the first
/// millisecond of 1970 and before) become 1.
fn timestamp(given: Option<i64>) -> i64 {
    given.map_or(0, |given| given.max(1))
}

fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((std::ptr::null_mut(), 0), |bytes| (bytes.as_ptr() as *mut c_void, bytes.len()))
}

/// Headers for librdkafka, destroyed unless a record took them.
pub(super) struct Headers(pub(super) *mut sys::rd_kafka_headers_t);

impl Headers {
    pub(super) fn of(headers: &[(&[u8], Option<&[u8]>)]) -> Headers {
        if headers.is_empty() {
            return Headers(std::ptr::null_mut());
        }
        // SAFETY: names and values are readable for their lengths and are copied.
        unsafe {
            let list = sys::rd_kafka_headers_new(headers.len());
            for (name, value) in headers {
                let (value, size) = parts(*value);
                sys::rd_kafka_header_add(list, name.as_ptr().cast(), name.len() as isize, value, size as isize);
            }
            Headers(list)
        }
    }

    /// A record owns them now.
    pub(super) fn given_away(mut self) {
        self.0 = std::ptr::null_mut();
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: no record took them, so they are still owned here.
            unsafe { sys::rd_kafka_headers_destroy(self.0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_with_a_record_comes_back() {
        let times = [None, Some(1), Some(32_503_680_000_000)].map(Opaque::Time);
        for opaque in [0, 7, u32::MAX].map(Opaque::Tag).into_iter().chain(times) {
            assert_eq!(Opaque::of(opaque.pointer()), opaque);
        }
    }

    #[test]
    fn a_time_before_1970_is_not_taken_for_now() {
        assert_eq!([None, Some(5), Some(0), Some(-7)].map(timestamp), [0, 5, 1, 1]);
    }
}
