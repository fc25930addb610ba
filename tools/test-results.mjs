// What runs of test files came to, as tools/test-reporter.mjs writes it, put together: files that failed get one more run by
// themselves, and what passes only then is named, so that nobody takes it for sound.

/** More files than this that fail have one cause, and it is not the weather. */
const MAX_AGAIN = 5;

/** Which files to run once more; none where nothing failed, or too much, or something that no file can be blamed for. */
export function filesToRepeat({ failures, files }) {
  const failed = Object.keys(files).filter((name) => files[name].failures.length > 0);
  return failures.length > 0 || failed.length > MAX_AGAIN ? [] : failed;
}

/** Both runs as one: of the files that were repeated the second counts. `unsteady` names what failed at first only. */
export function withRepetition(first, second) {
  const unsteady = [];
  for (const [name, again] of Object.entries(second.files)) {
    if (again.failures.length > 0 || second.failures.length > 0) continue;
    unsteady.push(...(first.files[name]?.failures ?? []));
  }
  return {
    failures: [...first.failures, ...second.failures],
    files: { ...first.files, ...second.files },
    unsteady: [...(first.unsteady ?? []), ...unsteady],
  };
}

/** The figures: `{passed, failed, skipped, failures, unsteady}`. */
export function figuresOf({ failures, files, unsteady = [] }) {
  const each = Object.values(files);
  const all = [...failures, ...each.flatMap((file) => file.failures)];
  return {
    passed: each.reduce((sum, { passed }) => sum + passed, 0),
    failed: all.length,
    skipped: each.flatMap(({ skipped }) => skipped),
    failures: all,
    unsteady,
  };
}
