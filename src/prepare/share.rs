//! Sharing work between a bounded number of threads: jobs in -> their results in the jobs' order, whatever the number of threads.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

use crate::domain::{Reason, ReasonCode};

/// Does every job; each of at most `n_threads` threads takes a stretch of neighbouring ones. The caller's thread takes the first stretch itself,
/// but where a stack of a given size (bytes) is wanted: then all run on threads of their own.
///
/// # Errors
/// `InternalFault` when a thread could not be started.
///
/// # Panics
/// As the job does: a panic comes out on the caller's thread.
pub(super) fn share<T: Sync, R: Send>(
    jobs: &[T],
    n_threads: usize,
    stack_bytes: Option<usize>,
    work: impl Fn(&T) -> R + Sync,
) -> Result<Vec<R>, Reason> {
    let mut stretches = jobs.chunks(jobs.len().div_ceil(n_threads.max(1)).max(1));
    let work = &work;
    let stretch = |part: &[T]| part.iter().map(work).collect::<Vec<R>>();
    let stretch = &stretch;
    scope(|scope| {
        let own = if stack_bytes.is_none() { stretches.next() } else { None };
        let start = |part| {
            let mut builder = Builder::new().name("prepare".into());
            if let Some(bytes) = stack_bytes {
                builder = builder.stack_size(bytes);
            }
            builder.spawn_scoped(scope, move || stretch(part))
        };
        let started: Vec<_> = stretches.map(start).collect();
        let mut results = own.map(stretch).unwrap_or_default();
        for handle in started {
            let handle = handle.map_err(|_| {
                Reason::new(ReasonCode::InternalFault, "No thread could be started to prepare a study: memory is short.")
            })?;
            results.extend(handle.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        Ok(results)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs_for_any_number_of_threads() {
        let jobs: Vec<usize> = (0..23).collect();
        for n_threads in [0, 1, 2, 5, 23, 99] {
            for stack_bytes in [None, Some(1 << 20)] {
                let done = share(&jobs, n_threads, stack_bytes, |n| n * n).expect("threads start");
                assert_eq!(done, jobs.iter().map(|n| n * n).collect::<Vec<_>>(), "{n_threads} threads");
            }
        }
        assert_eq!(share(&[] as &[usize], 4, None, |n| *n).expect("nothing to do"), Vec::<usize>::new());
    }
}
