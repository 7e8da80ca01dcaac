//! Every bound of the program, each with its unit and its reason.
//!
//! Bytes from outside (a client, a backend, a control client, a worker, the
//! configuration) never grow memory beyond what stands here.

/// Longest request or response head, in bytes: what nginx and haproxy accept by default.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most field lines of one head, as in Apache httpd and haproxy.
pub const HEAD_LINES_MAX: usize = 100;
/// Longest request line and longest request target, in bytes.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;
/// Longest method, in bytes: the longest registered one has 17.
pub const METHOD_BYTES_MAX: usize = 32;
/// Longest hostname, in bytes (RFC 1035 section 2.3.4).
pub const HOSTNAME_BYTES_MAX: usize = 253;
/// Largest chunk size: 2^52 - 1, exact in every language that counts with doubles.
pub const CHUNK_SIZE_MAX: u64 = (1 << 52) - 1;
/// Longest chunk extension, in bytes.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 256;
/// Most digits of a Content-Length: 18 nines still fit an i64.
pub const CONTENT_LENGTH_DIGITS_MAX: usize = 18;

/// Room before received bytes in a buffer: a rewritten head is longer than the
/// received one by at most the fields that we add.
pub const BUFFER_HEADROOM_BYTES: usize = 1024;
/// Room behind received bytes: the end of a chunk and the last chunk.
pub const BUFFER_TAILROOM_BYTES: usize = 16;

/// Longest line of the control language, in bytes: a certificate chain travels in one.
pub const CONTROL_LINE_BYTES_MAX: usize = 1024 * 1024;
/// Most words of one control line.
pub const CONTROL_WORDS_MAX: usize = 256;

/// Largest configuration file, in bytes: 100,000 frontends take about 10 MiB.
pub const CONFIG_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Deepest nesting of tables and arrays in the configuration.
pub const CONFIG_DEPTH_MAX: usize = 32;

/// Most options of all Connection fields of a head: each is looked for among all field names.
pub const CONNECTION_OPTIONS_MAX: usize = 32;
/// Most 1xx responses before the final one.
pub const INTERIM_RESPONSES_MAX: u8 = 16;
/// Longest body of an answer of our own, in bytes: it is sent from one buffer, and all of
/// them, escaped, fit one control line.
pub const ANSWER_BYTES_MAX: usize = 12 * 1024;
/// How long a half-closed connection waits for the client's end, in milliseconds.
pub const LINGER_MS: u64 = 2_000;
/// Exchanges kept for the next requests, so that none is allocated for a request.
pub const SPARE_EXCHANGES_MAX: usize = 1024;
/// Connections to other backends tried after one that could not be made.
pub const CONNECT_RETRIES_MAX: u8 = 2;

/// Most objects of one kind (listeners, clusters, frontends, backends) in a state.
pub const STATE_OBJECTS_MAX: usize = 1_000_000;
/// Largest weight of a backend, as in HAProxy and Sōzu.
pub const WEIGHT_MAX: u16 = 256;
/// Longest name of a cluster, a backend or a cookie, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest path of a file, in bytes: PATH_MAX of Linux.
pub const FILE_PATH_BYTES_MAX: usize = 4096;
/// Most ranges of trusted proxies of one listener.
pub const TRUSTED_PROXIES_MAX: usize = 1024;
/// Longest time limit, in seconds: a year.
pub const TIMEOUT_SECONDS_MAX: u32 = 365 * 24 * 3600;
/// Most errors and most warnings that one reading of the configuration collects.
pub const CONFIG_REPORTS_MAX: usize = 20;
