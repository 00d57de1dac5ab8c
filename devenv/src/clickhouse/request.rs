//! What a request asks for: the statement, its settings and parameters, its formats.

use hyper::Method;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;

use super::engine::Refusal;

/// Settings and parameters that one request may carry.
const MAX_SETTINGS: usize = 1000;

/// A request to run a statement. The body may hold the statement, its data, or both.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Call {
    /// The statement (or its beginning) from the URL or the form.
    pub sql: Vec<u8>,
    /// Settings in the order given; a parameter `x` of the statement is the setting `param_x`.
    pub settings: Vec<(String, String)>,
    pub database: Option<String>,
    /// The format of answers, and of data whose statement names none.
    pub format: Option<String>,
    /// Whether the body consists of compressed blocks.
    pub decompress: bool,
    pub query_id: String,
    /// GET requests must not change anything.
    pub readonly: bool,
}

impl Call {
    /// Reads the URL and the headers.
    pub fn read(head: &Parts) -> Result<Call, Refusal> {
        let mut call = Call { readonly: head.method == Method::GET, ..Call::default() };
        for (name, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
            call.take(&name, value.into_owned())?;
        }
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        call.format = header("x-clickhouse-format").or(call.format);
        call.database = call.database.or(header("x-clickhouse-database"));
        if let Some(encoding) = header("content-encoding").filter(|encoding| encoding != "identity") {
            return Err(unsupported(format!("Content-Encoding {encoding} of the request body")));
        }
        Ok(call)
    }

    /// Takes one parameter of the URL or of a form.
    pub fn take(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        match name {
            "query" => self.sql = value.into_bytes(),
            "database" => self.database = Some(value),
            "default_format" => self.format = Some(value),
            "decompress" => self.decompress = value != "0",
            "query_id" => self.query_id = value.chars().filter(|c| c.is_ascii_graphic()).take(200).collect(),
            "compress" if value != "0" => {
                return Err(unsupported("compress=1 (compressed answers)"));
            }
            "session_id" => return Err(unsupported("session_id (state between requests)")),
            // Accepted without effect: there are no users, and answers are always sent whole.
            "compress"
            | "user"
            | "password"
            | "role"
            | "quota_key"
            | "wait_end_of_query"
            | "buffer_size"
            | "send_progress_in_http_headers"
            | "client_protocol_version" => {}
            _ if !is_name(name) => {
                return Err(Refusal::new(115, "UNKNOWN_SETTING", format!("Unknown setting '{}'", name.escape_debug())));
            }
            _ if self.settings.len() >= MAX_SETTINGS => {
                return Err(unsupported("more than 1000 settings in one request"));
            }
            _ => self.settings.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// Takes the parts of a multipart form: the official client sends a statement with parameters that way.
    pub fn take_form(&mut self, boundary: &str, body: &[u8]) -> Result<(), Refusal> {
        let malformed = |what: &str| Refusal::new(36, "BAD_ARGUMENTS", format!("malformed multipart form: {what}"));
        let text = std::str::from_utf8(body).map_err(|_| malformed("not UTF-8"))?;
        let delimiter = format!("--{boundary}");
        let mut parts = text.split(delimiter.as_str()).skip(1);
        for part in parts.by_ref() {
            if part.starts_with("--") {
                return Ok(());
            }
            let (head, value) = part.split_once("\r\n\r\n").ok_or_else(|| malformed("a part without a body"))?;
            let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next());
            let name = name.ok_or_else(|| malformed("a part without a name"))?;
            self.take(name, value.strip_suffix("\r\n").unwrap_or(value).to_owned())?;
        }
        Err(malformed("no closing boundary"))
    }

    /// The `SET` statements for these settings, one for settings and parameters each.
    pub fn set_statements(&self) -> Vec<String> {
        let set = |parameters: bool| {
            let chosen = self.settings.iter().filter(|(name, _)| name.starts_with("param_") == parameters);
            let assignments: Vec<String> = chosen.map(|(name, value)| format!("{name} = {}", literal(value))).collect();
            (!assignments.is_empty()).then(|| format!("SET {}", assignments.join(", ")))
        };
        set(false).into_iter().chain(set(true)).collect()
    }
}

/// The boundary of a multipart form, if the request is one.
pub fn boundary(head: &Parts) -> Option<String> {
    let value = head.headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let boundary = value.strip_prefix("multipart/form-data")?.split("boundary=").nth(1)?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    (!boundary.is_empty()).then(|| boundary.to_owned())
}

fn unsupported(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(48, "NOT_IMPLEMENTED", format!("this HTTP front of the libchdb engine has no {what}"))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A string literal of ClickHouse.
pub fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A quoted identifier of ClickHouse.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(uri: &str) -> Result<Call, Refusal> {
        Call::read(&hyper::Request::post(uri).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_url_is_taken_apart() {
        let call = call("/?query=SELECT+1&database=d&max_threads=2&param_x=it%27s&default_format=CSV&decompress=1&user=u").unwrap();
        assert_eq!((call.sql.as_slice(), call.database.as_deref()), (b"SELECT 1".as_slice(), Some("d")));
        assert_eq!((call.format.as_deref(), call.decompress, call.readonly), (Some("CSV"), true, false));
        assert_eq!(call.set_statements(), ["SET max_threads = '2'", "SET param_x = 'it\\'s'"]);
    }

    #[test]
    fn what_is_not_implemented_is_refused() {
        assert_eq!(call("/?session_id=a").unwrap_err().code, 48);
        assert_eq!(call("/?compress=1").unwrap_err().code, 48);
        assert_eq!(call("/?a%20b=1").unwrap_err().code, 115);
    }

    #[test]
    fn a_form_gives_statement_and_parameters() {
        let form = "--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {x:String}\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"param_x\"\r\n\r\na\r\n\r\nb\r\n--B--\r\n";
        let mut call = Call::default();
        call.take_form("B", form.as_bytes()).unwrap();
        assert_eq!(call.sql, b"SELECT {x:String}");
        assert_eq!(call.settings, [("param_x".to_owned(), "a\r\n\r\nb".to_owned())]);
        let short = &form.as_bytes()[..form.len() - 6];
        assert_eq!(Call::default().take_form("B", short).unwrap_err().code, 36, "a form cut off is not a shorter form");
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(identifier("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(literal("a'b\\"), "'a\\'b\\\\'");
    }
}
