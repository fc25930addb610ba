/** Every code that an alarm has, and what it is about. Stable: monitoring branches on them. What to do at each stands in docs/operations.md. */

interface AlarmEntry {
  severity: 'warning' | 'critical';
  /** As a heading. */
  title: string;
}

export const alarmCodes = {
  fence_failed: { severity: 'critical', title: 'A node that is away cannot be fenced' },
  job_overdue: { severity: 'warning', title: 'A resource should be as wanted by now, and is not' },
  job_crashing: { severity: 'critical', title: 'The workers of a job die in its middle, again and again' },
  job_failing: { severity: 'warning', title: 'A step of a job fails, and is tried again and again' },
  node_gone: { severity: 'critical', title: 'The node of a resource is gone' },
  node_unreachable: { severity: 'critical', title: 'A node is away' },
  outcome_unclear: { severity: 'critical', title: 'Nobody knows whether a deed on a node happened' },
  undo_stuck: { severity: 'critical', title: 'What a job did cannot be undone' },
  node_orphans: { severity: 'warning', title: 'A node has what nobody owns' },
  node_missing: { severity: 'critical', title: 'A node has lost what it had made' },
  account_orphans: { severity: 'warning', title: 'The identity provider has accounts that are nobody’s' },
  leftovers: { severity: 'warning', title: 'The database has what belongs to nothing' },
} as const satisfies Record<string, AlarmEntry>;

export type AlarmCode = keyof typeof alarmCodes;
