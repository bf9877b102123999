//! The environment that a worker starts with.
//!
//! The server's own holds secrets: settings can come from it, a provider's client secret among them, and a service manager may
//! have put in others. A worker reads untrusted input, so it gets the variables on a list and nothing else.

use std::ffi::{OsStr, OsString};

/// Variables that are passed by their whole names: the process's surroundings and its runtime's.
const NAMES: &[&str] = &[
    "GLIBC_TUNABLES",
    "HOME",
    "LANG",
    "LANGUAGE",
    "MALLOC_CONF",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "TMPDIR",
    "TZ",
    "XDG_CACHE_HOME",
];

/// Variables that are passed by how their names begin.
const PREFIXES: &[&str] = &[
    // Loader and allocator.
    "LD_",
    "DYLD_",
    "LC_",
    "MALLOC_",
    // Threads and numerical libraries.
    "BLIS_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OMP_",
    "OPENBLAS_",
    // llama.cpp and its backends.
    "GGML_",
    "LLAMA_",
    // NVIDIA.
    "CUBLAS_",
    "CUDA_",
    "NCCL_",
    "NVIDIA_",
    // AMD.
    "AMD_",
    "GPU_",
    "HIP_",
    "HSA_",
    "ROCBLAS_",
    "ROCM_",
    "ROCR_",
    // Vulkan and Mesa.
    "ANV_",
    "MESA_",
    "RADV_",
    "VK_",
    // Intel, Moore Threads, Ascend, Metal.
    "ASCEND_",
    "METAL_",
    "MTL_",
    "MUSA_",
    "ONEAPI_",
    "SYCL_",
    "ZE_",
];

/// Words in the names of secrets: `NVIDIA_API_KEY` belongs to no driver.
const SECRET_WORDS: &[&str] = &["AUTH", "CREDENTIAL", "KEY", "PASS", "SECRET", "TOKEN"];

/// Those of `variables` that a worker is started with: the ones on the list, and those that are named in `others`.
pub fn passed<'a, I>(variables: I, others: &'a [String]) -> impl Iterator<Item = (OsString, OsString)> + 'a
where
    I: IntoIterator<Item = (OsString, OsString)>,
    I::IntoIter: 'a,
{
    variables
        .into_iter()
        .filter(move |(name, _)| is_listed(name) || others.iter().any(|other| name == &**other))
}

fn is_listed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let by_prefix = || {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            && !SECRET_WORDS.iter().any(|word| name.to_ascii_uppercase().contains(word))
    };
    NAMES.contains(&name) || by_prefix()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(given: &[&str], others: &[&str]) -> Vec<String> {
        let given: Vec<_> = given.iter().map(|name| (OsString::from(name), OsString::from("x"))).collect();
        let others: Vec<_> = others.iter().map(|name| (*name).to_owned()).collect();
        passed(given, &others).map(|(name, _)| name.into_string().unwrap()).collect()
    }

    #[test]
    fn loader_and_gpu_variables_pass() {
        let all = [
            "LD_LIBRARY_PATH",
            "CUDA_VISIBLE_DEVICES",
            "HIP_VISIBLE_DEVICES",
            "GGML_VK_VISIBLE_DEVICES",
            "OMP_NUM_THREADS",
            "LC_ALL",
            "TMPDIR",
        ];
        assert_eq!(names(&all, &[]), all);
    }

    #[test]
    fn secrets_stay() {
        let secrets = [
            "JAN_SERVER__AUTH__GOOGLE__CLIENT_SECRET",
            "JAN_SERVER__WEB_SEARCH__API_KEY",
            "JAN_SERVER_CONFIG",
            "AWS_SECRET_ACCESS_KEY",
            "HF_TOKEN",
            "OPENAI_API_KEY",
            "NVIDIA_API_KEY",
            "LLAMA_API_KEY",
            "CUDA_password",
            "SSH_AUTH_SOCK",
            "PATH",
            "DATABASE_URL",
            "XLD_LIBRARY_PATH",
        ];
        assert_eq!(names(&secrets, &[]), Vec::<String>::new());
        assert_eq!(names(&secrets, &["HF_TOKEN", "PATH", "ABSENT"]), ["HF_TOKEN", "PATH"]);
    }

    proptest! {
        #[test]
        fn settings_never_pass_unnamed(rest in "[A-Z_]{0,30}") {
            prop_assert_eq!(names(&[&format!("JAN_{rest}")], &[]), Vec::<String>::new());
        }
    }
}
