//! The metrics of a worker: names, types, labels and help, in the order of docs/metrics.md.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric; every series has the label `pipeline`, too.
pub(super) struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    BUILD_INFO: Gauge "headwater_build_info" ["version"] "1; the label is the version of the program.";
    SERVICE_UP: Gauge "headwater_service_up" ["service", "sink"] "1: the service answered the last request; 0: it did not. Absent: it was not asked yet.";
    ASSIGNED: Gauge "headwater_assigned_partitions" ["lane"] "Partitions of stages (tasks) that a lane processes.";
    REBALANCES: Counter "headwater_rebalances_total" [] "Assignments that lanes received from the consumer group, the first included.";
    LANE_RESTARTS: Counter "headwater_lane_restarts_total" [] "Lanes that failed and were started again.";
    EPOCHS: Counter "headwater_epochs_total" [] "Committed epochs.";
    COMMIT_FAILURES: Counter "headwater_commit_failures_total" ["outcome"] "Commits that failed or whose outcome is unknown.";
    REWINDS: Counter "headwater_rewinds_total" [] "Epochs discarded and processed again.";
    LAST_COMMIT: Gauge "headwater_last_commit_timestamp_seconds" [] "Unix time of the last commit; 0: none yet.";
    EPOCH: Histogram "headwater_epoch_seconds" [] "From an epoch's first record to its commit.";
    COMMIT: Histogram "headwater_commit_seconds" [] "From the end of an epoch to its commit.";
    END_TO_END: Histogram "headwater_end_to_end_seconds" [] "From the timestamp of an epoch's oldest record to its commit.";
    LAG_RECORDS: Gauge "headwater_lag_records" ["topic", "partition"] "Records of an input partition that are not committed yet.";
    LAG_SECONDS: Gauge "headwater_lag_seconds" ["topic", "partition"] "How far the event time of an input partition is behind the clock; 0 when everything is read.";
    WATERMARK: Gauge "headwater_watermark_timestamp_seconds" ["topic", "partition"] "Committed watermark of an input partition, Unix time.";
    WATERMARK_HELD: Gauge "headwater_watermark_held" ["topic", "partition", "reason"] "1: the watermark of a silent input partition can't follow the wall clock, and why. Absent: it can.";
    WAITING: Gauge "headwater_partitions_waiting" [] "Input partitions that are waiting, for example for the schema registry.";
    UNREAD: Gauge "headwater_source_partitions_unread" ["topic"] "Partitions added to a source's topic since the start; they are read after a restart.";
    SOURCE_RECORDS: Counter "headwater_source_records_total" ["topic", "partition", "result"] "Committed source records by result.";
    WRONG_UNIT: Counter "headwater_source_wrong_unit_total" ["topic", "partition"] "Committed source records whose event time looks like another unit, seconds for milliseconds.";
    STEP_ROWS_IN: Counter "headwater_step_rows_in_total" ["step", "partition"] "Committed input rows of a step.";
    STEP_ROWS: Counter "headwater_step_rows_total" ["step", "partition", "result"] "Committed rows of a step by result; in = sum of these + held.";
    STEP_ROWS_HELD: Gauge "headwater_step_rows_held" ["step", "partition"] "Change of rows held in a step's state since this worker started.";
    STEP_PORT_ROWS: Counter "headwater_step_port_rows_total" ["step", "port"] "Committed rows that came out of a step's named ports, read or not.";
    OUTPUT_ROWS: Counter "headwater_output_rows_total" ["output"] "Committed rows written to an output.";
    OUTPUT_RECORDS: Counter "headwater_output_records_total" ["output"] "Committed records written to an output.";
    OUTPUT_BYTES: Counter "headwater_output_bytes_total" ["output"] "Committed bytes of keys, values and headers written to an output, before compression.";
    OUTPUT_REFUSED: Counter "headwater_output_refused_rows_total" ["output"] "Rows that an output could not write and that became dead letters.";
    DEAD_LETTERS: Counter "headwater_dead_letters_total" ["step", "cause"] "Committed dead letters by the source, step or output that they come from.";
    STATE_ENTRIES: Gauge "headwater_state_entries" ["step"] "Committed entries in the state of a step, of this worker's tasks.";
    STATE_BYTES: Gauge "headwater_state_bytes" ["step"] "Bytes of their keys and values; memory needs about twice as much.";
    UNWRITTEN: Gauge "headwater_checkpoints_unwritten" [] "Local checkpoints that can't be written: a restart reads the whole changelog instead.";
    CHECKPOINT_FAILURES: Counter "headwater_checkpoint_failures_total" [] "Attempts to write a local checkpoint that failed.";
    CHECKPOINTED: Gauge "headwater_checkpoint_timestamp_seconds" [] "Unix time when a local checkpoint was last written; 0: none yet.";
    RESTORE_LEFT: Gauge "headwater_restore_records_left" [] "Changelog records still to be read before all tasks run.";
    RESTORE: Gauge "headwater_restore_records" [] "Total changelog records of the running restores.";
    TABLE_ROWS: Gauge "headwater_table_rows" ["table"] "Rows of a table.";
    TABLE_BAD: Counter "headwater_table_bad_records_total" ["table"] "Invalid records of a table's topic (no key, or not decodable), which are skipped.";
    TABLE_OTHER_BYTES: Counter "headwater_table_keys_in_other_bytes_total" ["table"] "Records of a table's topic whose key has other bytes than an earlier equal one, so that compaction keeps both.";
    DELIVERY_ROWS: Counter "headwater_delivery_rows_total" ["sink"] "Rows confirmed to be in the table.";
    DELIVERY_BLOCKS: Counter "headwater_delivery_blocks_total" ["sink"] "Blocks inserted.";
    DELIVERY_RETRIES: Counter "headwater_delivery_retries_total" ["sink"] "Repeated inserts, and repeated counts of rows.";
    DELIVERY_REFUSED: Counter "headwater_delivery_refused_rows_total" ["sink"] "Rows that the table refused and that became dead letters.";
    DELIVERY_STOPPED: Gauge "headwater_delivery_stopped" ["sink"] "1 if the sink has stopped; its rows are kept in its outbox topic.";
    DELIVERY_LAG: Gauge "headwater_delivery_lag_records" ["sink"] "Outbox records not yet in the table.";
    DELIVERY_BUFFERED: Gauge "headwater_delivery_buffered_rows" ["sink"] "Rows read but not yet inserted.";
    CPU: Counter "process_cpu_seconds_total" [] "CPU time of the process, user and system.";
    THREADS: Gauge "process_threads" [] "Threads of the process.";
    VIRTUAL: Gauge "process_virtual_memory_bytes" [] "Virtual memory of the process.";
    RESIDENT: Gauge "process_resident_memory_bytes" [] "Resident memory of the process.";
    STARTED: Gauge "process_start_time_seconds" [] "Unix time when the process started.";
    OPEN_FDS: Gauge "process_open_fds" [] "Open file descriptors.";
    MAX_FDS: Gauge "process_max_fds" [] "Limit of open file descriptors.";
}

#[cfg(test)]
mod tests {
    use super::{ALL, Kind};

    /// Name, type and labels of the rows of the page's tables.
    #[test]
    fn the_page_lists_every_metric() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let listed: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("| `headwater_") || line.starts_with("| `process_"))
            .map(|line| line.split('|').skip(1).take(3).map(str::trim).collect::<Vec<_>>().join(" | "))
            .collect();
        let registered: Vec<String> = ALL
            .iter()
            .map(|family| {
                let kind = match family.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram => "histogram",
                };
                let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
                format!("`{}` | {kind} | {}", family.name, labels.join(", "))
            })
            .collect();
        assert_eq!(listed, registered);
    }

    #[test]
    fn alerts_are_about_metrics_that_exist() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let rules = text.split("```").nth(1).unwrap();
        let words = rules.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        let used: Vec<&str> = words.filter(|word| word.starts_with("headwater_") || word.starts_with("process_")).collect();
        assert!(used.len() > 15, "{used:?}");
        for name in used {
            assert!(ALL.iter().any(|family| family.name == name), "{name}");
        }
        let alerts: Vec<&str> = rules.lines().filter_map(|line| line.split("- alert: ").nth(1)?.split_whitespace().next()).collect();
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let alert = row.split('|').nth(6).unwrap_or_default().split('`').nth(1).filter(|name| name.starts_with(char::is_uppercase));
            assert!(alert.is_none_or(|name| alerts.contains(&name)), "{row}");
        }
    }
}
