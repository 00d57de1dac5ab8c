//! libchdb, loaded at run time.
//!
//! The C interface is the one declared in `chdb.h` of chdb-core 26.7. One engine with one database folder exists per
//! process; a [`Session`] is one connection to it, with its own settings and current database, and costs a fraction
//! of a millisecond. The library is never unloaded: its threads outlive every handle.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use libloading::Library;

use crate::LocalError;

/// A pointer to an object that only the library looks into.
type Handle = *mut c_void;

/// Declares the functions that are used and a loader that fails on the first one that is missing.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+ }

        impl Functions {
            fn load(library: &'static Library) -> Result<Functions, libloading::Error> {
                Ok(Functions {
                    $($field: {
                        // SAFETY: the signature is that of chdb.h 26.7 for this symbol, and the library is never
                        // unloaded, so the function pointer stays valid.
                        *unsafe { library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>($symbol) }?
                    },)+
                })
            }
        }
    };
}

functions! {
    version = "chdb_version": fn() -> *const c_char;
    set_signal_handlers = "chdb_set_signal_handlers_enabled": fn(c_int);
    connect = "chdb_connect": fn(c_int, *mut *mut c_char) -> *mut Handle;
    close = "chdb_close_conn": fn(*mut Handle);
    classify = "chdb_classify_query_n": fn(Handle, *const u8, usize, *const u8, usize, *mut Analysis) -> c_int;
    query = "chdb_query_n": fn(Handle, *const u8, usize, *const u8, usize) -> Handle;
    insert_begin = "chdb_stream_insert_n": fn(Handle, *const u8, usize, *const u8, usize) -> Handle;
    insert_append = "chdb_stream_append": fn(Handle, *const u8, usize) -> c_int;
    insert_done = "chdb_stream_done": fn(Handle) -> Handle;
    insert_cancel = "chdb_stream_cancel_insert": fn(Handle);
    insert_error = "chdb_stream_insert_error": fn(Handle) -> *const c_char;
    insert_destroy = "chdb_destroy_insert_stream": fn(Handle);
    result_error = "chdb_result_error": fn(Handle) -> *const c_char;
    result_buffer = "chdb_result_buffer": fn(Handle) -> *const u8;
    result_length = "chdb_result_length": fn(Handle) -> usize;
    result_rows = "chdb_result_rows_read": fn(Handle) -> u64;
    result_read_rows = "chdb_result_storage_rows_read": fn(Handle) -> u64;
    result_read_bytes = "chdb_result_storage_bytes_read": fn(Handle) -> u64;
    result_written_rows = "chdb_result_rows_written": fn(Handle) -> u64;
    result_written_bytes = "chdb_result_bytes_written": fn(Handle) -> u64;
    result_destroy = "chdb_destroy_query_result": fn(Handle);
}

/// `chdb_query_analysis_v1`.
#[repr(C)]
struct Analysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

/// What the engine or the front refused, in ClickHouse's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// ClickHouse error code.
    pub code: u32,
    /// `Code: 60. DB::Exception: ...`
    pub message: String,
}

impl Refusal {
    /// An error of the front itself, written as the engine writes its own.
    pub fn new(code: u32, name: &str, text: impl std::fmt::Display) -> Refusal {
        Refusal { code, message: format!("Code: {code}. DB::Exception: {text}. ({name})") }
    }

    fn from_engine(message: String) -> Refusal {
        let code = message.split("Code: ").nth(1).and_then(|rest| rest.split(['.', ' ']).next()?.parse().ok());
        Refusal { code: code.unwrap_or(1002), message } // 1002 is UNKNOWN_EXCEPTION
    }
}

/// The result of a statement.
#[derive(Debug, Default)]
pub struct Output {
    pub body: Vec<u8>,
    pub result_rows: u64,
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
}

/// The engine of this process.
pub struct Engine {
    functions: Functions,
    path: CString,
    version: String,
}

impl Engine {
    /// Loads the library and opens the database; the first connection starts the engine.
    pub fn open(library: &Path, data: &Path) -> Result<Arc<Engine>, LocalError> {
        let failed = |error: libloading::Error| LocalError::Engine(format!("{}: {error}", library.display()));
        // SAFETY: the library is libchdb, named by whoever starts the front; its initialisers only set up its own
        // state. It is leaked on purpose, see the module's documentation.
        let loaded: &'static Library = Box::leak(Box::new(unsafe { Library::new(library) }.map_err(failed)?));
        let functions = Functions::load(loaded).map_err(failed)?;
        let path = [b"--path=", data.as_os_str().as_bytes()].concat();
        let path = CString::new(path).map_err(|_| LocalError::Engine("the data folder has a zero byte".to_owned()))?;
        // SAFETY: called before the first connection, as chdb.h demands; 0 leaves the signals to this process.
        unsafe { (functions.set_signal_handlers)(0) };
        let mut engine = Engine { functions, path, version: String::new() };
        let failed = |refusal: Refusal| LocalError::Engine(refusal.message);
        let session = engine.session().map_err(failed)?;
        let output = session.query(b"SELECT version()", "TabSeparatedRaw").map_err(failed)?;
        // The engine ends with its last connection; this one is never closed.
        std::mem::forget(session);
        // SAFETY: returns a string that is part of the library.
        let chdb = unsafe { CStr::from_ptr((engine.functions.version)()) }.to_string_lossy().into_owned();
        engine.version = format!("{} (chdb {chdb})", String::from_utf8_lossy(&output.body).trim());
        Ok(Arc::new(engine))
    }

    /// Version of ClickHouse and of libchdb.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Opens a connection with settings of its own.
    pub fn session(&self) -> Result<Session<'_>, Refusal> {
        let mut arguments = [c"clickhouse".as_ptr().cast_mut(), self.path.as_ptr().cast_mut()];
        // SAFETY: two zero-terminated strings that live during the call, as in main(argc, argv); the library does
        // not write to them.
        let connection = unsafe { (self.functions.connect)(2, arguments.as_mut_ptr()) };
        if connection.is_null() {
            return Err(Refusal::new(210, "NETWORK_ERROR", "the engine does not open a connection (is the folder in use?)"));
        }
        Ok(Session { functions: &self.functions, connection })
    }
}

/// A connection to the engine. It runs one statement at a time.
pub struct Session<'a> {
    functions: &'a Functions,
    connection: *mut Handle,
}

impl Session<'_> {
    fn handle(&self) -> Handle {
        // SAFETY: chdb_connect returned a pointer to a connection; it stays valid until chdb_close_conn in drop.
        unsafe { *self.connection }
    }

    /// Number of statements in a text; 0 if it does not parse.
    pub fn statements(&self, sql: &[u8]) -> u32 {
        let size = u32::try_from(size_of::<Analysis>()).unwrap_or(0);
        let mut analysis = Analysis { struct_size: size, statement_count: 0, flags: 0, query_class: 0 };
        // SAFETY: pointer and length of a live slice, no target database, and a struct of the stated size.
        let state = unsafe { (self.functions.classify)(self.handle(), sql.as_ptr(), sql.len(), ptr::null(), 0, &raw mut analysis) };
        if state == 0 { analysis.statement_count } else { 0 }
    }

    /// Runs a statement. Must not be given the inline data of an insert.
    pub fn query(&self, sql: &[u8], format: &str) -> Result<Output, Refusal> {
        // SAFETY: pointers and lengths of live slices.
        let result = unsafe { (self.functions.query)(self.handle(), sql.as_ptr(), sql.len(), format.as_ptr(), format.len()) };
        self.output(result)
    }

    /// Begins an insert whose data follows. `sql` is the statement without its format clause and data.
    pub fn insert(&self, sql: &[u8], format: &[u8]) -> Result<Insert<'_>, Refusal> {
        // SAFETY: pointers and lengths of live slices; the header promises a handle that is never null.
        let stream = unsafe { (self.functions.insert_begin)(self.handle(), sql.as_ptr(), sql.len(), format.as_ptr(), format.len()) };
        let insert = Insert { session: self, stream, finished: false };
        match insert.error() {
            Some(refusal) => Err(refusal),
            None => Ok(insert),
        }
    }

    /// Copies a result and frees it.
    fn output(&self, result: Handle) -> Result<Output, Refusal> {
        if result.is_null() {
            return Err(Refusal::new(1001, "STD_EXCEPTION", "the engine returned no result"));
        }
        let functions = self.functions;
        // SAFETY: `result` is a live result of this library, read before it is destroyed and not used afterwards.
        unsafe {
            let output = match text((functions.result_error)(result)) {
                Some(message) => Err(Refusal::from_engine(message)),
                None => Ok(Output {
                    body: bytes((functions.result_buffer)(result), (functions.result_length)(result)),
                    result_rows: (functions.result_rows)(result),
                    read_rows: (functions.result_read_rows)(result),
                    read_bytes: (functions.result_read_bytes)(result),
                    written_rows: (functions.result_written_rows)(result),
                    written_bytes: (functions.result_written_bytes)(result),
                }),
            };
            (functions.result_destroy)(result);
            output
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: closed once; inserts borrow the session and are gone.
        unsafe { (self.functions.close)(self.connection) }
    }
}

/// An insert in progress. Dropped before [`Insert::finish`], it is cancelled and nothing of its last block is written.
pub struct Insert<'a> {
    session: &'a Session<'a>,
    stream: Handle,
    finished: bool,
}

impl Insert<'_> {
    /// Passes data on; waits while the engine is behind.
    pub fn append(&mut self, data: &[u8]) -> Result<(), Refusal> {
        // SAFETY: a live stream, and pointer and length of a live slice that the library copies.
        let state = unsafe { (self.session.functions.insert_append)(self.stream, data.as_ptr(), data.len()) };
        if state == 0 {
            return Ok(());
        }
        Err(self.error().unwrap_or_else(|| Refusal::new(1001, "STD_EXCEPTION", "the insert failed without a reason")))
    }

    /// Commits the insert.
    pub fn finish(mut self) -> Result<Output, Refusal> {
        self.finished = true;
        // SAFETY: a live stream that was not finished before; the result is freed by `output`.
        let result = unsafe { (self.session.functions.insert_done)(self.stream) };
        self.session.output(result)
    }

    fn error(&self) -> Option<Refusal> {
        // SAFETY: a live stream; the string belongs to it and is copied.
        unsafe { text((self.session.functions.insert_error)(self.stream)) }.map(Refusal::from_engine)
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; cancelled before if it was not finished, as chdb.h describes.
        unsafe {
            if !self.finished {
                (self.session.functions.insert_cancel)(self.stream);
            }
            (self.session.functions.insert_destroy)(self.stream);
        }
    }
}

/// Copies a zero-terminated string; `None` for null.
///
/// # Safety
/// `string` is null or points to a zero-terminated string.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    Some(unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

/// Copies a buffer; an empty one may be null.
///
/// # Safety
/// `length` bytes are readable at `buffer`, unless it is null.
unsafe fn bytes(buffer: *const u8, length: usize) -> Vec<u8> {
    if buffer.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(buffer, length) }.to_vec()
}
