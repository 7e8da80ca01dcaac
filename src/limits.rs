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
/// Longest ClientHello that is looked into, in bytes: it lies in one buffer, with the headers of its
/// records; with post-quantum keys it has about 2 KiB.
pub const CLIENT_HELLO_BYTES_MAX: usize = HEAD_BYTES_MAX - 1024;
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
/// For so long a client is waited for before it is judged how fast it is, in microseconds. Half the web stalls for
/// a second or two, when a phone changes from one cell to the next.
pub const PACE_WINDOW_US: u64 = 5_000_000;
/// Exchanges kept for the next requests, so that none is allocated for a request.
pub const SPARE_EXCHANGES_MAX: usize = 1024;
/// Connections to other backends tried after one that could not be made.
pub const CONNECT_RETRIES_MAX: u8 = 2;

/// Bytes of plain text in a TLS record: small ones after a silence, so that the first is whole
/// early; then as many as a record takes (RFC 8446 section 5.1).
pub const TLS_RECORD_BYTES_MIN: usize = 4096;
pub const TLS_RECORD_BYTES_MAX: usize = 16 * 1024;
/// Bytes that are sent in small records.
pub const TLS_SMALL_RECORDS_BYTES: usize = 32 * 1024;

/// How long new session tickets are made with the same key, in milliseconds: 12 hours. They are
/// taken for as long again.
pub const TICKET_KEY_MS: u64 = 12 * 3600 * 1000;

/// Challenges of certificate authorities that are answered: the names of two orders, which have
/// 100 with the largest of them.
pub const CHALLENGES_MAX: usize = 256;
/// Longest answer to one, in bytes: usual ones have 87.
pub const CHALLENGE_BYTES_MAX: usize = 256;
/// Longest header of the PROXY protocol, in bytes: with addresses and all that is defined it has a few hundred.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;
/// Names in their folder that main looks at.
pub const CHALLENGE_NAMES_MAX: usize = 1024;
/// After main has looked there it does other things for so many times as long, lest whoever writes
/// there all the time keep it busy. An authority on the same machine asks 3 ms after the file was written.
pub const CHALLENGE_REST_TIMES: u64 = 10;

/// Longest PEM text of a certificate, a chain or a key, in bytes: the three of them, escaped, fit
/// one control line.
pub const PEM_BYTES_MAX: usize = 256 * 1024;
/// Longest list of ciphers, suites or groups, in bytes: all that OpenSSL knows take less.
pub const CIPHERS_BYTES_MAX: usize = 4096;
/// Certificates between that of a client and the one at which the proof ends.
pub const CLIENT_CHAIN_DEPTH_MAX: u32 = 8;
/// Longest certificate of a client, in bytes of DER, and longest text of its subject: four times
/// what is common. Both stand in the head that a backend gets, which leaves 9 KiB of a buffer to
/// what the client says itself.
pub const CLIENT_CERTIFICATE_BYTES_MAX: usize = 4096;
pub const CLIENT_SUBJECT_BYTES_MAX: usize = 1024;
/// How often main looks which certificates end soon, in milliseconds: daily.
pub const EXPIRY_CHECK_MS: u64 = 24 * 3600 * 1000;
/// Certificates that a client is shown at most, the leaf among them.
pub const CERTIFICATE_CHAIN_MAX: usize = 10;

/// Certificates, in PEM, that one cluster trusts, in bytes: as many as a system does, beside all
/// answers in one control line.
pub const AUTHORITIES_BYTES_MAX: usize = 256 * 1024;
/// The same of the system's, in bytes: four times what Debian has.
pub const SYSTEM_AUTHORITIES_BYTES_MAX: usize = 1024 * 1024;
/// TLS sessions that a worker keeps for the backends of one cluster, with their certificates
/// about 10 KiB each: one for each backend and name.
pub const BACKEND_SESSIONS_MAX: usize = 256;
/// That a backend's TLS fails is said once in so many milliseconds.
pub const TLS_SILENCE_MS: u64 = 60_000;

/// Most objects of one kind (listeners, certificates, clusters, frontends, backends) in a state.
pub const STATE_OBJECTS_MAX: usize = 1_000_000;

/// Listeners, clusters and backends that are counted at the same time, 352 bytes each and per
/// worker. More of them work, and are missing in the metrics.
pub const SERIES_MAX: usize = 16_384;
/// Names of a certificate that a figure has as its label: with four of the longest it fits a piece.
pub const LABEL_NAMES_MAX: usize = 4;
/// Bytes of metrics after which a piece ends: with one object more it fits a buffer.
pub const METRICS_PIECE_BYTES: usize = 7 * 1024;
/// Largest weight of a backend, as in HAProxy and Sōzu.
pub const WEIGHT_MAX: u16 = 256;
/// Requests of one worker that wait for a backend of one cluster.
pub const QUEUE_MAX: u32 = 65_536;
/// How often it is looked whether another worker has made room for them, in milliseconds.
pub const QUEUE_LOOK_MS: u64 = 5;
/// Points of all backends of a cluster on the ring of consistent hashing: 4 MiB.
pub const RING_POINTS_MAX: u64 = 1 << 18;
/// Longest name of a cluster, a backend or a cookie, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// … of a backend by name: with "@" and the longest address behind it, it is one still.
pub const ID_BY_NAME_BYTES_MAX: usize = NAME_BYTES_MAX - 48;
/// Longest path of a file, in bytes: PATH_MAX of Linux.
pub const FILE_PATH_BYTES_MAX: usize = 4096;
/// Longest path of a unix socket, in bytes: of the kernel's 108 the last one is a zero (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;
/// Most elements of a list: trusted proxies, groups.
pub const LIST_MAX: usize = 1024;
/// Longest time limit, in seconds: a year.
pub const TIMEOUT_SECONDS_MAX: u32 = 365 * 24 * 3600;
/// Most errors and most warnings that one reading of the configuration collects.
pub const CONFIG_REPORTS_MAX: usize = 20;
/// Most worker processes: 64 workers, and as many that retire. The board has a row for each.
pub const WORKERS_MAX: usize = 128;
/// Idle connections kept to one backend by one worker.
pub const POOLED_PER_BACKEND_MAX: usize = 1024;
/// Bytes that one connection may move in one turn before the others have theirs.
pub const TURN_BYTES_MAX: usize = 48 * 1024;
/// Fewer coming bytes than this are copied, not spliced.
pub const SPLICE_BYTES_MIN: u64 = 16 * 1024;
/// What a splice pipe should hold.
pub const PIPE_BYTES: usize = 64 * 1024;
/// Access-log lines that wait for a log that takes nothing, in bytes; what comes then is lost.
pub const ACCESS_LOG_BYTES_MAX: usize = 256 * 1024;
/// Access-log lines are written when so many bytes have gathered …
pub const ACCESS_LOG_FLUSH_BYTES: usize = 16 * 1024;
/// … or so many milliseconds have passed.
pub const ACCESS_LOG_FLUSH_MS: u64 = 100;
/// Connections that a worker without siblings accepts at once.
pub const ACCEPT_BATCH: usize = 16;
/// A worker with so many connections more than the least loaded one leaves the next to others …
pub const ACCEPT_LEAD_MAX: u64 = 2;
/// … for so many microseconds.
pub const ACCEPT_GRACE_US: u64 = 3_000;
/// A worker at its limit of connections, where each that ends makes room for one, says so
/// once in so many milliseconds.
pub const LIMIT_SILENCE_MS: u64 = 60_000;
/// How long a worker does not accept where it could not: out of descriptors, mostly. In milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Main makes a socket listen again once in so many milliseconds at most: whoever stops it may do so all the time.
pub const LISTEN_AGAIN_MS: u64 = 100;
/// Buffers that a worker lends at most, unless configured: 136 MiB.
pub const BUFFERS_DEFAULT: usize = 8192;
/// Descriptors of a worker that are no connections of clients: logs, channel, listeners, checks, spare.
pub const DESCRIPTORS_RESERVED: u64 = 256;
/// Events of one epoll_wait.
pub const EVENTS_PER_TURN: usize = 256;
/// Bytes of others' log lines that main holds on their way, if they go through main at all: as many as a pipe does.
pub const RELAY_BYTES_MAX: usize = 64 * 1024;
/// A log that took nothing is tried again after so many milliseconds.
pub const RELAY_PAUSE_MS: u64 = 50;
/// Longest text of log levels, in bytes: dozens of modules.
pub const LOG_LEVELS_BYTES_MAX: usize = 4096;
/// How much of a change the log shows, in characters: all but long answers and certificates.
pub const LOGGED_CHARS_MAX: usize = 1000;
/// Longest text of an error, in characters: it may quote what was sent.
pub const ERROR_CHARS_MAX: usize = 1000;
/// Connections that wait in a listening socket's queue; the kernel may lower it (net.core.somaxconn).
pub const LISTEN_BACKLOG: i32 = 4096;
/// Control clients at one time.
pub const CONTROL_CLIENTS_MAX: usize = 128;
/// A control client that was silent for so many milliseconds, with nothing under way, gives its
/// place up when all are taken and another one comes.
pub const CONTROL_SILENCE_MS: u64 = 60_000;
/// Unfinished lines of all control clients, in bytes: sixteen of the longest. Of more the longest is given up.
pub const CONTROL_UNFINISHED_BYTES_MAX: usize = 16 * CONTROL_LINE_BYTES_MAX;
/// Room that a reader of lines keeps for the next ones, in bytes.
pub const LINE_ROOM_BYTES: usize = 64 * 1024;
/// Answers that a control client has not read, in bytes; before they are read it is not listened to.
pub const CONTROL_REPLY_BYTES_MAX: usize = 64 * 1024;
/// Events that a control client has not read, in bytes; those that come then it is not told.
pub const EVENTS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The same, in pieces: each has a place in the queue of everybody who has not read it.
pub const EVENTS_PIECES_MAX: usize = 8 * 1024;
/// Events that some control client has not read, in bytes, each counted once. With more, only
/// those who have read everything are told of another one.
pub const EVENTS_ALL_BYTES_MAX: usize = 2 * EVENTS_BYTES_MAX;
/// Dumps and differences of different states that are still being read …
pub const DUMPS_MAX: usize = 16;
/// … and with so many bytes together no other one is made: four of 100,000 frontends.
pub const DUMPS_BYTES_MAX: usize = 48 * 1024 * 1024;
/// Workers that were told to stop are killed after so many milliseconds.
pub const STOP_GRACE_MS: u64 = 2_000;
/// Requests that one worker holds for one paused cluster: what a busy site gets in a second.
pub const HELD_PER_CLUSTER_MAX: usize = 1024;
/// Longest pause of a cluster, in seconds.
pub const PAUSE_SECONDS_MAX: u32 = 3600;
/// Clusters that are paused at one time: a worker looks at each in every turn.
pub const PAUSES_MAX: usize = 1024;
/// A unix socket whose queue is full is tried again so often, in milliseconds.
pub const CONNECT_AGAIN_MS: u64 = 5;
/// Connections of one worker that wait for that; of more each is refused at once.
pub const CONNECTS_WAITING_MAX: usize = 4096;
/// How long a path may be unknown to the connector that a worker knows already, in milliseconds.
pub const PATH_UNKNOWN_MS: u64 = 500;
/// A path goes so long after the last backend that has it: workers may still ask.
pub const PATH_KEPT_MS: u64 = 10_000;
/// Connectors that died, of which main knows what they were called: who is connected by one may not steer the proxy.
pub const CONNECTOR_PIDS_MAX: usize = 64;
/// How often a worker tells main how a number goes on, in milliseconds.
pub const TELL_MS: u64 = 200;
/// Backends that one worker calls up or down in a second; the others wait for the next one.
pub const BACKEND_NEWS_PER_SECOND_MAX: u32 = 100;
/// Longest reason that a worker gives for a backend's being down, in characters.
pub const REASON_CHARS_MAX: usize = 200;
/// How often whoever waits is told how far it has come, in milliseconds …
pub const PROGRESS_MS: u64 = 1_000;
/// … and when nothing has changed.
pub const PROGRESS_IDLE_MS: u64 = 5_000;
/// Connections about which a worker tells main at once, or that it closes at once …
pub const CONNECTIONS_PAGE: usize = 128;
/// … and slots that it looks at for them, before others have their turn.
pub const CONNECTIONS_LOOKED_AT: u32 = 4096;
/// Longest line of a worker about one connection, in bytes; its names and its request are shorter.
pub const CONNECTION_LINE_BYTES_MAX: usize = 4096;
/// How much of a request is shown of a connection, in bytes.
pub const REQUEST_SHOWN_BYTES_MAX: usize = 256;
/// Warnings about backends that one worker writes in a second.
pub const WARNINGS_PER_SECOND_MAX: u32 = 10;
/// Changes of one transaction.
pub const TRANSACTION_CHANGES_MAX: usize = 500_000;
/// Bytes of the lines of one transaction: that many changes of usual length. Until it is
/// committed it takes about three times that.
pub const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same, of all transactions that are open at one time.
pub const TRANSACTIONS_BYTES_MAX: usize = 2 * TRANSACTION_BYTES_MAX;
/// After so many changes or lines of one work, memory is given back to the system …
pub const LITTER_MIN: usize = 10_000;
/// … so many milliseconds later, when what they left behind is gone.
pub const RELEASE_DELAY_MS: u64 = 200;
/// How long changes are gathered before they are saved, in milliseconds.
pub const SAVE_DELAY_MS: u64 = 100;
/// Lines of the saved state that do not fit and cannot be kept aside: so many are in the log …
pub const LOST_LINES_MAX: usize = 100;
/// … and of each so many characters.
pub const LOST_LINE_CHARS_MAX: usize = 1_000;
/// After a failure to save it is tried again so many milliseconds later.
pub const SAVE_AGAIN_MS: u64 = 10_000;
/// After the state was saved, main does other things for so many times as long before it saves again.
pub const SAVE_REST_TIMES: u64 = 20;
/// Connections that a worker hands to the next one, or takes from the last one, before others
/// have their turn: a few hundred microseconds.
pub const MOVES_PER_TURN: usize = 64;
/// Longest message about one of them, in bytes: what lies in two buffers, in hexadecimal. With larger
/// buffers, which are seldom full, a connection stays until less lies in them.
pub const MOVED_BYTES_MAX: usize = 192 * 1024;
/// Longest text in which main hands over to another program, in bytes: the largest state, and what
/// control clients have not read.
pub const HANDOVER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Of answers that control clients have not read so many bytes go along with an upgrade; of more,
/// who has most is let go.
pub const HANDOVER_UNREAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests from which on a canary is judged.
pub const CANARY_REQUESTS_MIN: u64 = 100;
/// Longest time that a canary sings, in seconds: a day.
pub const CANARY_SECONDS_MAX: u32 = 24 * 3600;
/// How long idle clients of a worker that ends may still ask for something, in milliseconds.
pub const FAREWELL_MS: u64 = 1_000;

// ---- actions of frontends ------------------------------------------------

/// Most changes of fields that a frontend has in one direction …
pub const EDITS_MAX: usize = 64;
/// … and their length together, in bytes, with all else that a rewritten head has more than the one that
/// came. It is set aside in a buffer: beside what is told of a client's certificate 8 KiB are left in the
/// smallest for the head itself, and beside the longest answer of our own its other fields fit.
pub const EDITS_BYTES_MAX: usize = 3072;
/// Longest URL that a client is redirected to, in bytes: as long as what it may ask for.
pub const LOCATION_BYTES_MAX: usize = REQUEST_LINE_BYTES_MAX;
/// Largest file of users with their hashes, in bytes, and most users in it: they are carried in one control line.
pub const USERS_BYTES_MAX: usize = 256 * 1024;
pub const USERS_MAX: usize = 2048;
/// Longest password and longest name of a user, in bytes. Hashing takes longer for longer passwords.
pub const PASSWORD_BYTES_MAX: usize = 128;
pub const USER_BYTES_MAX: usize = 128;
/// Most rounds of a hash: a worker does nothing else meanwhile, for 10 ms.
pub const CRYPT_ROUNDS_MAX: u32 = 20_000;
/// Rounds that a worker hashes in a second, a tenth of its time …
pub const CRYPT_ROUNDS_PER_SECOND: u32 = 200_000;
/// … and at once, which are eight passwords of usual hashes.
pub const CRYPT_ROUNDS_AT_ONCE: u32 = 40_000;
/// Right passwords that a worker remembers, 40 bytes each.
pub const PROOFS_MAX: usize = 4096;

// ---- health --------------------------------------------------------------

/// Checks in a row that may be asked for before a backend is up or down.
pub const CHECK_RUN_MAX: u32 = 100;
/// 5xx responses in a row that may be asked for before a backend is left alone.
pub const EJECT_RUN_MAX: u32 = 10_000;
/// Longest path and query of a check, in bytes.
pub const TARGET_BYTES_MAX: usize = 1024;
/// Longest text that is looked for in its answer, in characters.
pub const TEXT_CHARS_MAX: usize = 256;
/// Bytes of the answer's body in which it is looked for.
pub const CHECK_BODY_BYTES_MAX: usize = 4096;
/// Checks that one worker makes at the same time; more wait for one of them to end.
pub const CHECKS_AT_ONCE_MAX: usize = 128;
/// The first check of a backend comes within so many milliseconds.
pub const CHECK_FIRST_MS: u64 = 1_000;
/// Backends that one worker calls up or down in a second by what checks have shown. Those
/// beyond it are told with their next check.
pub const VERDICTS_PER_SECOND_MAX: u32 = 500;

// ---- names of backends ---------------------------------------------------

/// Addresses that one name stands for at most; of more the first ones in their order are taken.
pub const NAME_ADDRESSES_MAX: usize = 64;
/// Whoever brings a new name waits so many milliseconds at most for its first answer.
pub const NAME_PATIENCE_MS: u64 = 5_000;
/// What names stand for is written down so many milliseconds after it has changed: some change all the time.
pub const NAMES_KEPT_MS: u64 = 10_000;
/// Names that the resolver asks for at the same time, a thread each, and as many again that had no answer last time …
pub const NAMES_AT_ONCE_MAX: usize = 64;
/// … with a stack of so many bytes: modules of the C library's are not ours to bound.
pub const RESOLVER_STACK_BYTES: usize = 256 * 1024;
/// Names that wait there for their turn: as many as there may be backends.
pub const NAMES_WAITING_MAX: usize = STATE_OBJECTS_MAX;

// ---- keys ----------------------------------------------------------------

/// Bits of an RSA key: what no public CA signs is less …
pub const RSA_BITS_MIN: u32 = 2048;
/// … and twice what public CAs sign by default; a signature takes some 50 ms then, and eight times that with twice the bits.
pub const RSA_BITS_MAX: u32 = 8192;
/// Bytes that a worker asks to be signed, and those of a signature.
pub const SIGNATURE_BYTES_MAX: usize = RSA_BITS_MAX as usize / 8;
/// How long a worker waits for a signature, and the handshake and all else with it.
pub const SIGNATURE_MS: u64 = 1_000;
/// … once one has not come, until one comes again.
pub const SIGNATURE_DOUBTED_MS: u64 = 20;
/// It asks again after so long: the key process may have died with the question.
pub const SIGNATURE_AGAIN_MS: u64 = 100;
/// Signatures for one worker in a second: more than its processor could use, and a bound for who has taken it over.
pub const SIGNATURES_PER_SECOND_MAX: u32 = 20_000;
/// A key goes so long after the certificate: handshakes that have begun with it end.
pub const KEY_KEPT_MS: u64 = 60_000;
