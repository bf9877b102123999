//! The C library's heap, which llama.cpp and Rust share.

/// Returns free pages of the heap to the kernel. The C library keeps most of what is freed: in each thread's arena only the end is
/// given back by itself, and what is as large as the largest mapping that was ever freed (up to 32 MiB) is not mapped by itself
/// any more. It takes milliseconds, during which other threads' allocations wait.
pub fn give_back_free_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no precondition; it takes the locks of the arenas itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
