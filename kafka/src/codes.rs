//! Error codes of librdkafka and the brokers, and what each means for the caller.
//!
//! Codes are plain integers here, never `rdkafka`'s Rust enum: a broker newer than this client sends codes the enum
//! doesn't have, and such a value in a Rust enum is undefined behaviour.

use headwater_engine::broker::{BrokerError, Failure};

use super::native;

pub(super) const BAD_MSG: i32 = -199;
pub(super) const BAD_COMPRESSION: i32 = -198;
#[cfg(test)]
pub(super) const DESTROY: i32 = -197;
pub(super) const TRANSPORT: i32 = -195;
pub(super) const RESOLVE: i32 = -193;
pub(super) const MSG_TIMED_OUT: i32 = -192;
pub(super) const PARTITION_EOF: i32 = -191;
pub(super) const UNKNOWN_PARTITION: i32 = -190;
pub(super) const UNKNOWN_TOPIC: i32 = -188;
pub(super) const ALL_BROKERS_DOWN: i32 = -187;
pub(super) const TIMED_OUT: i32 = -185;
pub(super) const QUEUE_FULL: i32 = -184;
pub(super) const NODE_UPDATE: i32 = -182;
pub(super) const SSL: i32 = -181;
pub(super) const WAIT_COORD: i32 = -180;
pub(super) const IN_PROGRESS: i32 = -178;
pub(super) const PREV_IN_PROGRESS: i32 = -177;
pub(super) const ASSIGN_PARTITIONS: i32 = -175;
pub(super) const CONFLICT: i32 = -173;
pub(super) const STATE: i32 = -172;
pub(super) const AUTHENTICATION: i32 = -169;
pub(super) const NO_OFFSET: i32 = -168;
pub(super) const OUTDATED: i32 = -167;
pub(super) const TIMED_OUT_QUEUE: i32 = -166;
pub(super) const WAIT_CACHE: i32 = -164;
pub(super) const RETRY: i32 = -153;
pub(super) const PURGE_QUEUE: i32 = -152;
pub(super) const PURGE_INFLIGHT: i32 = -151;
pub(super) const FATAL: i32 = -150;
pub(super) const INCONSISTENT: i32 = -149;
#[cfg(test)]
pub(super) const MAX_POLL_EXCEEDED: i32 = -147;
pub(super) const FENCED: i32 = -144;
pub(super) const ASSIGNMENT_LOST: i32 = -142;
pub(super) const AUTO_OFFSET_RESET: i32 = -140;
pub(super) const LOG_TRUNCATION: i32 = -139;
pub(super) const INVALID_DIFFERENT_RECORD: i32 = -138;
pub(super) const OFFSET_OUT_OF_RANGE: i32 = 1;
pub(super) const INVALID_MSG: i32 = 2;
pub(super) const UNKNOWN_TOPIC_OR_PART: i32 = 3;
pub(super) const LEADER_NOT_AVAILABLE: i32 = 5;
pub(super) const NOT_LEADER: i32 = 6;
pub(super) const REQUEST_TIMED_OUT: i32 = 7;
pub(super) const BROKER_NOT_AVAILABLE: i32 = 8;
pub(super) const REPLICA_NOT_AVAILABLE: i32 = 9;
pub(super) const MSG_SIZE_TOO_LARGE: i32 = 10;
pub(super) const NETWORK_EXCEPTION: i32 = 13;
pub(super) const COORDINATOR_LOADING: i32 = 14;
pub(super) const COORDINATOR_NOT_AVAILABLE: i32 = 15;
pub(super) const NOT_COORDINATOR: i32 = 16;
pub(super) const RECORD_LIST_TOO_LARGE: i32 = 18;
pub(super) const NOT_ENOUGH_REPLICAS: i32 = 19;
pub(super) const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i32 = 20;
pub(super) const ILLEGAL_GENERATION: i32 = 22;
pub(super) const UNKNOWN_MEMBER_ID: i32 = 25;
pub(super) const REBALANCE_IN_PROGRESS: i32 = 27;
pub(super) const TOPIC_AUTHORIZATION_FAILED: i32 = 29;
pub(super) const GROUP_AUTHORIZATION_FAILED: i32 = 30;
pub(super) const CLUSTER_AUTHORIZATION_FAILED: i32 = 31;
pub(super) const INVALID_TIMESTAMP: i32 = 32;
pub(super) const TOPIC_ALREADY_EXISTS: i32 = 36;
pub(super) const NOT_CONTROLLER: i32 = 41;
pub(super) const INVALID_PRODUCER_EPOCH: i32 = 47;
pub(super) const CONCURRENT_TRANSACTIONS: i32 = 51;
pub(super) const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i32 = 53;
pub(super) const STORAGE_ERROR: i32 = 56;
pub(super) const GROUP_ID_NOT_FOUND: i32 = 69;
pub(super) const OFFSET_NOT_AVAILABLE: i32 = 78;
pub(super) const FENCED_INSTANCE_ID: i32 = 82;
pub(super) const INVALID_RECORD: i32 = 87;
pub(super) const UNSTABLE_OFFSET_COMMIT: i32 = 88;
pub(super) const THROTTLING_QUOTA_EXCEEDED: i32 = 89;
pub(super) const PRODUCER_FENCED: i32 = 90;

/// The member is not the one the group knows, or the group is moving on (only abortable for librdkafka: retrying would
/// continue forever or fight the new owner).
pub(super) fn is_member_fenced(code: i32) -> bool {
    matches!(code, ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID | FENCED_INSTANCE_ID | REBALANCE_IN_PROGRESS | ASSIGNMENT_LOST)
}

/// Another producer took the transactional id (or its transaction ran out: brokers bump the epoch for both).
pub(super) fn is_producer_fenced(code: i32) -> bool {
    matches!(code, FENCED | PRODUCER_FENCED | INVALID_PRODUCER_EPOCH)
}

/// Rights are missing: no retry helps until someone grants them.
pub(super) fn is_authorization(code: i32) -> bool {
    matches!(
        code,
        TOPIC_AUTHORIZATION_FAILED | GROUP_AUTHORIZATION_FAILED | CLUSTER_AUTHORIZATION_FAILED | TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    )
}

/// A broker is not reached, or does not answer.
pub(super) fn is_connection(code: i32) -> bool {
    matches!(code, TRANSPORT | RESOLVE | ALL_BROKERS_DOWN | TIMED_OUT | TIMED_OUT_QUEUE | REQUEST_TIMED_OUT)
}

/// The same call may succeed later.
pub(super) fn is_transient(code: i32) -> bool {
    matches!(
        code,
        TRANSPORT | RESOLVE | MSG_TIMED_OUT | ALL_BROKERS_DOWN | TIMED_OUT | QUEUE_FULL | NODE_UPDATE | WAIT_COORD
            | IN_PROGRESS | PREV_IN_PROGRESS | CONFLICT | OUTDATED | TIMED_OUT_QUEUE | WAIT_CACHE | RETRY
            | LEADER_NOT_AVAILABLE | NOT_LEADER | REQUEST_TIMED_OUT | BROKER_NOT_AVAILABLE | REPLICA_NOT_AVAILABLE
            | NETWORK_EXCEPTION | COORDINATOR_LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR
            | NOT_ENOUGH_REPLICAS | NOT_ENOUGH_REPLICAS_AFTER_APPEND | NOT_CONTROLLER | CONCURRENT_TRANSACTIONS
            | STORAGE_ERROR | OFFSET_NOT_AVAILABLE | UNSTABLE_OFFSET_COMMIT | THROTTLING_QUOTA_EXCEEDED
            // A topic just created is unknown to some brokers for a moment.
            | UNKNOWN_TOPIC_OR_PART | UNKNOWN_TOPIC | UNKNOWN_PARTITION
    )
}

/// What a failed call means to the engine. Whatever is not known is [`Failure::Fatal`]: to stop is safe.
pub(super) fn failure(code: i32) -> Failure {
    if is_member_fenced(code) || is_producer_fenced(code) {
        Failure::Fenced
    } else if is_transient(code) {
        Failure::Transient
    } else if matches!(code, OFFSET_OUT_OF_RANGE | AUTO_OFFSET_RESET | LOG_TRUNCATION | NO_OFFSET) {
        Failure::OutOfRange
    } else if matches!(code, STATE | INCONSISTENT | PURGE_QUEUE | PURGE_INFLIGHT) {
        Failure::AbortTransaction
    } else {
        Failure::Fatal
    }
}

/// An error that says what was tried and what came of it.
pub(super) fn error(what: impl std::fmt::Display, code: i32) -> BrokerError {
    let hint = if is_authorization(code) { "; `hw run --dry-run` says which rights are missing" } else { "" };
    BrokerError::new(failure(code), format!("{what}: {}{hint}", native::describe(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_stop_rather_than_retry() {
        for code in [-1, 130, 9999, DESTROY, FATAL, AUTHENTICATION, BAD_MSG, GROUP_AUTHORIZATION_FAILED] {
            assert_eq!(failure(code), Failure::Fatal, "{code}");
        }
    }

    #[test]
    fn fencing_is_neither_transient_nor_fatal() {
        for code in [ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, PRODUCER_FENCED, FENCED] {
            assert_eq!(failure(code), Failure::Fenced, "{code}");
            assert!(!is_transient(code), "{code}");
        }
        assert_eq!(failure(AUTO_OFFSET_RESET), Failure::OutOfRange);
        assert_eq!(failure(TRANSPORT), Failure::Transient);
    }

    #[test]
    fn the_codes_are_those_of_the_linked_library() {
        use rdkafka::bindings::rd_kafka_resp_err_t as E;
        let pairs = [
            (BAD_MSG, E::RD_KAFKA_RESP_ERR__BAD_MSG),
            (TRANSPORT, E::RD_KAFKA_RESP_ERR__TRANSPORT),
            (PARTITION_EOF, E::RD_KAFKA_RESP_ERR__PARTITION_EOF),
            (TIMED_OUT, E::RD_KAFKA_RESP_ERR__TIMED_OUT),
            (SSL, E::RD_KAFKA_RESP_ERR__SSL),
            (QUEUE_FULL, E::RD_KAFKA_RESP_ERR__QUEUE_FULL),
            (ASSIGN_PARTITIONS, E::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS),
            (STATE, E::RD_KAFKA_RESP_ERR__STATE),
            (FATAL, E::RD_KAFKA_RESP_ERR__FATAL),
            (INCONSISTENT, E::RD_KAFKA_RESP_ERR__INCONSISTENT),
            (MAX_POLL_EXCEEDED, E::RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED),
            (FENCED, E::RD_KAFKA_RESP_ERR__FENCED),
            (ASSIGNMENT_LOST, E::RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST),
            (AUTO_OFFSET_RESET, E::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET),
            (LOG_TRUNCATION, E::RD_KAFKA_RESP_ERR__LOG_TRUNCATION),
            (INVALID_DIFFERENT_RECORD, E::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD),
            (MSG_SIZE_TOO_LARGE, E::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE),
            (RECORD_LIST_TOO_LARGE, E::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE),
            (INVALID_TIMESTAMP, E::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP),
            (INVALID_RECORD, E::RD_KAFKA_RESP_ERR_INVALID_RECORD),
            (ILLEGAL_GENERATION, E::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION),
            (UNKNOWN_MEMBER_ID, E::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID),
            (REBALANCE_IN_PROGRESS, E::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS),
            (INVALID_PRODUCER_EPOCH, E::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH),
            (FENCED_INSTANCE_ID, E::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID),
            (UNSTABLE_OFFSET_COMMIT, E::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT),
            (PRODUCER_FENCED, E::RD_KAFKA_RESP_ERR_PRODUCER_FENCED),
            (UNKNOWN_TOPIC_OR_PART, E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART),
            (CONCURRENT_TRANSACTIONS, E::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs as i32, "{theirs:?}");
        }
    }
}
