//! Passwords, tokens and keys that stand in settings, taken out before the
//! settings leave the host.
//!
//! Snapshots lie in a bucket in clear, and whoever may look may list. So what
//! looks like a secret is replaced by [`REMOVED`], by the name of the setting
//! and by the look of its value, everywhere by this one rule: options and
//! labels of volumes, labels, commands, health checks and log settings of
//! containers. A rule of this kind is never complete: a whole specification
//! still needs the highest role.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Stands where a secret was.
pub(crate) const REMOVED: &str = "***";

/// Words of a setting's name that make its value a secret.
const WORDS: [&str; 22] = [
    "auth",
    "authorization",
    "basicauth",
    "connectionstring",
    "cookie",
    "cred",
    "creds",
    "dsn",
    "htpasswd",
    "jwt",
    "masterauth",
    "pass",
    "passphrase",
    "passwd",
    "pat",
    "psk",
    "pwd",
    "requirepass",
    "sas",
    "secret",
    "token",
    "tokens",
];

/// The same, anywhere in the name with its words put together.
const PARTS: [&str; 13] = [
    "accesskey",
    "accountkey",
    "apikey",
    "credential",
    "encryptionkey",
    "masterkey",
    "passphrase",
    "password",
    "passwd",
    "privatekey",
    "secret",
    "signingkey",
    "webhook",
];

/// Words at the end of a name that make it speak of a secret without being one.
const ABOUT: [&str; 12] = [
    "dir", "enabled", "expiry", "file", "length", "method", "mode", "path", "policy", "timeout", "ttl",
    "type",
];

/// How keys and tokens of well-known services begin.
const TOKENS: [&str; 18] = [
    "AIza",
    "AKIA",
    "ASIA",
    "dckr_pat_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "hf1.",
    "hfo_",
    "hvs.",
    "npm_",
    "sk_live_",
    "sk-",
    "xox",
];

/// The shortest that can be one of those.
const TOKEN_LENGTH: usize = 20;

/// Short options that take a password, by how the program's name begins.
const SHORT_OPTIONS: [(&str, &str); 11] = [
    ("mysql", "-p"),
    ("mariadb", "-p"),
    ("mongo", "-p"),
    ("sshpass", "-p"),
    ("redis-cli", "-a"),
    ("valkey-cli", "-a"),
    ("keydb-cli", "-a"),
    ("curl", "-u"),
    ("ldapsearch", "-w"),
    ("sqlcmd", "-P"),
    ("smbclient", "-U"),
];

/// Whether a setting of this name holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let words = words(name);
    if words.last().is_some_and(|last| ABOUT.contains(&last.as_str())) {
        return false;
    }
    let together = words.concat();
    let compound = |word: &str| {
        ["pass", "pwd", "token"].iter().any(|end| word.ends_with(end))
            && !["bypass", "compass", "oldpwd"].contains(&word)
    };
    words.iter().any(|word| WORDS.contains(&word.as_str()) || compound(word) || numbered(word))
        || PARTS.iter().any(|part| together.contains(part))
}

/// `password2` of CIFS and its like.
fn numbered(word: &str) -> bool {
    let plain = word.trim_end_matches(|c: char| c.is_ascii_digit());
    plain.len() < word.len() && WORDS.contains(&plain)
}

/// `dbPassword`, `db.password` and `DB_PASSWORD` are two words each.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (before.is_lowercase() && c.is_uppercase());
        if begins && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether something was taken out of a value.
pub(crate) fn was_removed(value: &str) -> bool {
    value.contains(REMOVED)
}

/// A setting's value with its secrets taken out.
pub(crate) fn value(name: &str, value: &str) -> String {
    match is_secret_name(name) {
        true if value.is_empty() => String::new(),
        true => REMOVED.to_owned(),
        false => text(value),
    }
}

/// Options or labels with the secrets among them taken out.
pub(crate) fn settings<'a>(
    settings: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<String, String> {
    settings.into_iter().map(|(name, setting)| (name.clone(), value(name, setting))).collect()
}

/// A text with its secrets taken out: `password=…` among mount options, the
/// user's part of a URL, an option of a command, a token by its look.
pub(crate) fn text(text: &str) -> String {
    Scan::default().text(text)
}

/// Takes secrets out of the parts of a container's configuration that people
/// put them in: `Config`, `HostConfig` or the settings of an endpoint.
pub(crate) fn of_settings(of: &mut Map<String, Value>) {
    // The entrypoint names the program whose options the command has.
    let mut scan = Scan::default();
    for key in ["Entrypoint", "Cmd"] {
        if let Some(Value::Array(arguments)) = of.get_mut(key) {
            scan.arguments(arguments);
        }
    }
    if let Some(Value::Array(test)) = of.get_mut("Healthcheck").and_then(|check| check.get_mut("Test")) {
        Scan::default().arguments(test);
    }
    if let Some(Value::Array(lines)) = of.get_mut("OnBuild") {
        lines.iter_mut().for_each(in_text);
    }
    for key in ["Labels", "Annotations", "StorageOpt", "DriverOpts"] {
        in_map(of.get_mut(key));
    }
    in_map(of.get_mut("LogConfig").and_then(|log| log.get_mut("Config")));
    for mount in of.get_mut("Mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(volume) = mount.get_mut("VolumeOptions") else { continue };
        in_map(volume.get_mut("Labels"));
        in_map(volume.get_mut("DriverConfig").and_then(|driver| driver.get_mut("Options")));
    }
}

fn in_map(map: Option<&mut Value>) {
    let Some(Value::Object(map)) = map else { return };
    for (name, setting) in map {
        match setting {
            Value::String(text) => *setting = json!(value(name, text)),
            Value::Null => {}
            _ if is_secret_name(name) => *setting = json!(REMOVED),
            _ => {}
        }
    }
}

fn in_text(line: &mut Value) {
    if let Value::String(content) = line {
        *line = json!(text(content));
    }
}

/// Reads words from left to right and knows what the one before announced.
#[derive(Default)]
struct Scan {
    /// The option of the program that takes a password.
    short: Option<&'static str>,
    /// The next word is a secret.
    announced: bool,
}

impl Scan {
    /// Words that each are one argument.
    fn arguments(&mut self, arguments: &mut [Value]) {
        for argument in arguments {
            let Value::String(content) = argument else { continue };
            *argument = if self.announced && !content.starts_with('-') {
                self.announced = false;
                json!(hidden(content))
            } else {
                json!(self.text(content))
            };
        }
    }

    fn text(&mut self, text: &str) -> String {
        if let Some(begin) = text.find("-----BEGIN ").filter(|_| text.contains("PRIVATE KEY-----")) {
            return format!("{}{REMOVED}", self.text(&text[..begin]));
        }
        let text = without_users(text);
        let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
        while !rest.is_empty() {
            // A word before said that this one is a secret: `--password`, or a short option.
            if self.announced {
                let (between, value) = rest.split_at(rest.find(|c| !is_space(c)).unwrap_or(rest.len()));
                out.push_str(between);
                rest = value;
                self.announced = value.is_empty();
                if !value.starts_with('-') {
                    rest = hide(value, argument_length(value), &mut out);
                    continue;
                }
            }
            let (word, after) = rest.split_at(rest.find(is_delimiter).unwrap_or(rest.len()));
            if let Some(option) = self.short_option(word) {
                out.push_str(option);
                let glued = &rest[option.len()..];
                self.announced = glued.is_empty() || glued.starts_with(is_space);
                // `-phunter2` as well as `-p hunter2`.
                rest = match self.announced {
                    true => glued,
                    false => hide(glued, argument_length(glued), &mut out),
                };
                continue;
            }
            out.push_str(shown(word));
            rest = after;
            let is_secret = is_secret_name(word);
            match announces(rest).filter(|_| is_secret) {
                Some(length) => {
                    let (between, value) = rest.split_at(length);
                    out.push_str(between);
                    let length = value_length(value, between.chars().last());
                    let scheme = scheme(&value[..length]);
                    out.push_str(&value[..scheme]);
                    rest = hide(&value[scheme..], length - scheme, &mut out);
                }
                None => {
                    self.announced = is_secret && word.starts_with('-') && !rest.starts_with('=');
                    if let Some(delimiter) = rest.chars().next().filter(|_| !self.announced) {
                        out.push(delimiter);
                        rest = &rest[delimiter.len_utf8()..];
                    }
                }
            }
        }
        out
    }

    /// The option that takes a password, if `word` is it, with its value or
    /// without.
    fn short_option(&mut self, word: &str) -> Option<&'static str> {
        let program = word.rsplit('/').next().unwrap_or(word);
        if let Some((_, option)) = SHORT_OPTIONS.iter().find(|(begin, _)| program.starts_with(begin)) {
            self.short = Some(option);
        }
        self.short.filter(|option| word.starts_with(option))
    }
}

/// A word, unless it looks like a token.
fn shown(word: &str) -> &str {
    let looks = TOKENS.iter().any(|begin| word.starts_with(begin)) && word.len() >= TOKEN_LENGTH;
    if looks { REMOVED } else { word }
}

/// Hides the first bytes of `value`; gives what follows them.
fn hide<'a>(value: &'a str, length: usize, out: &mut String) -> &'a str {
    out.push_str(&hidden(&value[..length]));
    &value[length..]
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'')
}

fn argument_length(value: &str) -> usize {
    value.find(is_space).unwrap_or(value.len())
}

fn is_delimiter(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '"' | '\'' | '`' | ',' | ';' | '&' | '|' | '?' | '(' | ')' | '{' | '}' | '=' | ':')
}

/// The length of `=`, `: ` or `": "` in front of a value, in bytes.
fn announces(rest: &str) -> Option<usize> {
    let quoted = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
    let value = match quoted.strip_prefix('=') {
        Some(value) => value,
        None => quoted.strip_prefix(':')?.trim_start_matches(' '),
    };
    let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
    (!value.is_empty()).then_some(rest.len() - value.len())
}

/// How long a value is that `before` stands in front of.
fn value_length(value: &str, before: Option<char>) -> usize {
    let end = match before {
        Some(quote @ ('"' | '\'')) => value.find(quote),
        // A header's value has a scheme in front of it, with a space.
        Some(' ' | ':') => value.find(['"', '\'', ',', ';', '\n']),
        _ => value.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | '|' | ')')),
    };
    end.unwrap_or(value.len())
}

/// The length of `Bearer ` or its like in front of a value.
fn scheme(value: &str) -> usize {
    match value.split_once(' ') {
        Some((scheme, _)) if ["basic", "bearer", "token"].contains(&scheme.to_ascii_lowercase().as_str()) => {
            scheme.len() + 1
        }
        _ => 0,
    }
}

/// A variable of a shell is not its value.
fn hidden(secret: &str) -> String {
    let name = secret.trim_start_matches('$');
    let is_reference = name.len() < secret.len()
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '{' | '}'));
    if secret.is_empty() || is_reference { secret.to_owned() } else { REMOVED.to_owned() }
}

/// `scheme://user:password@host` without the password; a long name without one
/// is a token.
fn without_users(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '<' | '>'))
            .unwrap_or(after.len());
        // A password may hold `/` and `@`; a path with `@` costs its beginning.
        if let Some(users) = after[..end].rfind('@') {
            match after[..users].split_once(':') {
                Some((user, password)) if !user.contains('/') => {
                    out.push_str(&format!("{user}:{}", hidden(password)));
                }
                None if users >= TOKEN_LENGTH && !after[..users].contains('/') => out.push_str(REMOVED),
                _ => out.push_str(&after[..users]),
            }
            rest = &after[users..];
        } else {
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v07_names_of_secrets_are_known() {
        for name in [
            "password",
            "Password2",
            "pass",
            "POSTGRES_PASSWORD",
            "dbPassword",
            "com.example.api-key",
            "splunk-token",
            "secret",
            "client_secret",
            "AWS_SECRET_ACCESS_KEY",
            "sas_token",
            "traefik.http.middlewares.a.basicauth.users",
            "requirepass",
            "userpass",
            "credentials",
            "SENTRY_DSN",
            "Authorization",
            "slack.webhook.url",
            "privateKey",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "device",
            "o",
            "type",
            "app",
            "com.docker.compose.project",
            "PATH",
            "key",
            "author",
            "bypass",
            "tier",
            "password_file",
            "token-ttl",
            "secretsPath",
            "keyring",
            "gelf-address",
            "max-size",
            "description",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn v07_secrets_go_by_their_look_and_the_rest_stays() {
        for (given, left) in [
            (
                "addr=10.0.0.1,username=me,password=hunter2,vers=3.0",
                "addr=10.0.0.1,username=me,password=***,vers=3.0",
            ),
            ("Password=p", "Password=***"),
            ("/srv/data", "/srv/data"),
            ("postgres://app:hunter2@db:5432/shop", "postgres://app:***@db:5432/shop"),
            ("amqp://a:p@ss/w@mq, https://x.y/z", "amqp://a:***@mq, https://x.y/z"),
            ("https://0123456789abcdef0123@git.example/x", "https://***@git.example/x"),
            ("ssh://git@github.com/a/b", "ssh://git@github.com/a/b"),
            ("https://h/x?token=hunter2&page=3", "https://h/x?token=***&page=3"),
            ("sh -c \"PGPASSWORD='hunter 2' psql -U app\"", "sh -c \"PGPASSWORD='***' psql -U app\""),
            ("PGPASSWORD=$PASSWORD psql", "PGPASSWORD=$PASSWORD psql"),
            (
                "curl -H 'Authorization: Bearer hunter2' http://x",
                "curl -H 'Authorization: Bearer ***' http://x",
            ),
            ("curl -u admin:hunter2 http://x", "curl -u *** http://x"),
            ("mysqladmin ping -uroot -phunter2 -P 3306", "mysqladmin ping -uroot -p*** -P 3306"),
            ("mysqladmin ping -p$MYSQL_ROOT_PASSWORD", "mysqladmin ping -p$MYSQL_ROOT_PASSWORD"),
            ("mysql -phunter2:3,x;y -P 3306", "mysql -p*** -P 3306"),
            ("mysql -p hunter2:x shop", "mysql -p *** shop"),
            ("redis-cli -a hunter2 ping", "redis-cli -a *** ping"),
            ("serve --api-key hunter2 --port 80", "serve --api-key *** --port 80"),
            ("serve --api-key --port 80", "serve --api-key --port 80"),
            ("serve --admin-password=hunter2", "serve --admin-password=***"),
            ("{\"user\": \"a\", \"password\": \"hunter2\"}", "{\"user\": \"a\", \"password\": \"***\"}"),
            ("push ghp_0123456789abcdef0123", "push ***"),
            ("key -----BEGIN RSA PRIVATE KEY-----\nhunter2", "key ***"),
            ("password=", "password="),
            ("nginx -g 'daemon off;'", "nginx -g 'daemon off;'"),
            ("a:b c=d e, f", "a:b c=d e, f"),
        ] {
            assert_eq!(text(given), left);
        }
    }

    #[test]
    fn v07_nothing_is_taken_out_twice() {
        for given in ["user=a,password=hunter2", "postgres://app:hunter2@db/x", "redis-cli -a hunter2"] {
            assert_eq!(text(&text(given)), text(given));
        }
    }

    #[test]
    fn v07_every_part_of_a_container_that_holds_secrets_is_looked_at() {
        let mut config = json!({
            "Entrypoint": ["redis-server"], "Cmd": ["--requirepass", "hunter2", "--port", "1"],
            "Healthcheck": { "Test": ["CMD-SHELL", "redis-cli -a hunter2 ping"], "Retries": 3 },
            "Labels": { "app": "shop", "db.password": "hunter2", "url": "http://u:hunter2@x" },
            "User": "70",
        });
        let mut host = json!({
            "LogConfig": { "Type": "splunk", "Config": { "splunk-token": "hunter2", "splunk-url": "https://x" } },
            "Annotations": { "secret": "hunter2" },
            "StorageOpt": { "size": "1G" },
            "Binds": ["db_secret:/run/secret"],
            "Mounts": [{ "Type": "volume", "Source": "v", "VolumeOptions": {
                "Labels": { "token": "hunter2" },
                "DriverConfig": { "Name": "local", "Options": { "o": "addr=x,password=hunter2", "type": "cifs" } } } }],
        });
        for value in [&mut config, &mut host] {
            of_settings(value.as_object_mut().unwrap());
            assert!(!value.to_string().contains("hunter2"), "{value}");
        }
        assert_eq!(config["Cmd"], json!(["--requirepass", "***", "--port", "1"]));
        assert_eq!(config["Labels"], json!({ "app": "shop", "db.password": "***", "url": "http://u:***@x" }));
        assert_eq!(host["Binds"], json!(["db_secret:/run/secret"]), "names of things are no secrets");
        assert_eq!(host["Mounts"][0]["VolumeOptions"]["DriverConfig"]["Options"]["o"], "addr=x,password=***");
    }
}
