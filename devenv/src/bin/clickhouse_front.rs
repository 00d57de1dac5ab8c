//! Serves the libchdb engine over HTTP: `clickhouse-front <libchdb.so> <data folder> <address>`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, data, address] = arguments.as_slice() else {
        eprintln!("usage: clickhouse-front <libchdb.so> <data folder> <address>");
        return ExitCode::from(2);
    };
    let Ok(address) = address.parse() else {
        eprintln!("clickhouse-front: {address} is not an address such as 127.0.0.1:8123");
        return ExitCode::from(2);
    };
    match headwater_devenv::serve_clickhouse(Path::new(library), Path::new(data), address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("clickhouse-front: {failure}");
            ExitCode::FAILURE
        }
    }
}
