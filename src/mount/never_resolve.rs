//! Names that are never looked up in the network, because programs look for them in every directory.

use globset::{GlobSet, GlobSetBuilder};

use crate::config::NamePattern;

/// The patterns of `mount.never_resolve`. They ignore case.
#[derive(Debug, Default)]
pub struct NeverResolve(GlobSet);

impl NeverResolve {
    /// Fails if the patterns together are too large for one set.
    pub fn new(patterns: &[NamePattern]) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(pattern.glob().clone());
        }
        Ok(Self(set.build()?))
    }

    /// Whether an organisation with this name is never looked up.
    pub fn matches_org(&self, org: &str) -> bool {
        self.0.is_match(org)
    }

    /// Whether a model with this name is never looked up.
    pub fn matches_model(&self, org: &str, name: &str) -> bool {
        self.0.is_match(name) || self.0.is_match(format!("{org}/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn defaults() -> NeverResolve {
        NeverResolve::new(&Config::defaults("/home/u".as_ref()).mount.never_resolve).unwrap()
    }

    #[test]
    fn names_of_libraries_caches_and_file_managers_are_excluded() {
        let never = defaults();
        for name in [
            ".git",
            ".Trash-1000",
            ".Trash",
            "__pycache__",
            "__init__",
            "lib",
            "lib64",
            "LIB",
            "bin",
            "site-packages",
            "AUTORUN.INF",
            "Thumbs.db",
            "HEAD",
            "libcudart.so.12",
            "_C.cpython-312-x86_64-linux-gnu.so",
            "torch.py",
            "torch.pyc",
            "numpy-2.0.dist-info",
            "x.egg-info",
            "pyproject.toml",
        ] {
            assert!(never.matches_org(name) && never.matches_model("acme", name), "{name}");
        }
    }

    #[test]
    fn names_of_organisations_and_models_are_not_excluded() {
        let never = defaults();
        for name in [
            "nvidia",
            "cublas",
            "meta-llama",
            "Llama-3.1-8B",
            "library",
            "binaries",
            "libai",
            "whisper.cpp",
            "gpt2",
            "Phi-3.5-mini",
            "sd-v1.5.safetensors",
            "01-ai",
            "bigcode",
            "sentence-transformers",
            "pytorch",
            "_private",
            "RealESRGAN_x4plus.pth",
        ] {
            assert!(!never.matches_org(name) && !never.matches_model("acme", name), "{name}");
        }
    }

    #[test]
    fn directories_of_cuda_packages_are_excluded_below_nvidia_only() {
        let never = defaults();
        for name in ["cublas", "cuda_runtime", "cudnn", "cusparselt", "cu13", "nccl", "nvjitlink", "nvtx"] {
            assert!(never.matches_model("nvidia", name), "{name}");
            assert!(!never.matches_model("acme", name) && !never.matches_org(name), "{name}");
        }
        for name in ["Llama-3.1-Nemotron-70B", "canary-1b", "NV-Embed-v2", "Cosmos-1.0", "cuOpt-demo"] {
            assert!(!never.matches_model("nvidia", name), "{name}");
        }
        assert!(!never.matches_org("nvidia"));
    }
}
