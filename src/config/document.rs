//! The texts that are generated from the table of keys: the example file, `docs/CONFIGURATION.md`, and the log line.

use std::fmt;

use super::Config;
use super::keys::SECTIONS;
use super::table::{KeyEntry, keys};

impl KeyEntry {
    /// The name without the section.
    fn short(&self) -> &str {
        self.name.split_once('.').map_or(self.name, |(_, key)| key)
    }
}

impl Config {
    /// A configuration file in which comments explain every key and show its default. It sets only the base directory, if
    /// `base_dir` is given. `init` writes this file.
    pub fn example(base_dir: Option<&str>) -> String {
        let mut file = "# silmaril's configuration. The values shown are the defaults: remove the '#' before a key to change it.\n\
                        # Sizes: 4194304, 4MiB or 4MB. Times: 10m, 1h 30m or seconds. Rates: bytes per second, 0 is unlimited.\n"
            .to_owned();
        for section in SECTIONS {
            file.push_str(&format!("\n#{}\n{}:\n", section.text, section.name));
            for key in section.keys {
                key.text.iter().for_each(|line| file.push_str(&format!("  #{line}\n")));
                file.push_str(&format!("  # Accepts {}.\n", (key.allowed)()));
                match base_dir.filter(|_| key.name == "storage.base_dir") {
                    // A JSON string is a YAML string.
                    Some(dir) => {
                        file.push_str(&format!("  {}: {}\n", key.short(), serde_json::Value::from(dir)))
                    }
                    None => file.push_str(&format!("  #{}: {}\n", key.short(), key.default)),
                }
            }
        }
        file
    }

    /// `docs/CONFIGURATION.md`.
    #[cfg(test)]
    fn reference() -> String {
        let mut page = include_str!("reference.md").to_owned();
        for section in SECTIONS {
            page.push_str(&format!("\n## {}\n\n{}\n", section.name, section.text.trim()));
            for key in section.keys {
                let text: String = key.text.concat();
                page.push_str(&format!(
                    "\n### {}\n\n{}\n\nAccepts {}. Default: `{}`\n",
                    key.name,
                    text.trim(),
                    (key.allowed)(),
                    key.default
                ));
            }
        }
        page
    }
}

/// The keys whose value is not the default, as `section.key=value` on one line. The password of the proxy is hidden.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = keys().map(|key| (key, (key.write)(self))).filter(|(key, value)| value != key.default);
        f.write_str(&values.map(|(key, value)| format!("{}={value}", key.name)).collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn reference_is_generated_from_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, Config::reference()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        for (number, (now, then)) in Config::reference().lines().zip(written.lines()).enumerate() {
            assert_eq!(
                now,
                then,
                "line {} of docs/CONFIGURATION.md; UPDATE_DOCS=1 writes it again",
                number + 1
            );
        }
        assert_eq!(Config::reference(), written, "docs/CONFIGURATION.md; UPDATE_DOCS=1 writes it again");
    }

    #[test]
    fn defaults_are_formatted_as_in_the_table() {
        let config = Config::defaults(Path::new("~/.silmaril"));
        for key in keys() {
            assert_eq!((key.write)(&config), key.default, "{}", key.name);
            assert!(key.text.iter().all(|line| line.len() <= 120), "{} has a long line", key.name);
        }
    }
}
