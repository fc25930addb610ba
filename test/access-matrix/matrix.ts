/** What came of each try, as the text of a file that people read: for each route its answers, and who got them. */
export class Matrix {
  private readonly rows = new Map<string, Map<string, string[]>>();

  /** `answers`: of all ways in which it was tried; none leaves nothing. */
  note(row: string, name: string, answers: readonly string[]): void {
    const cells = this.rows.get(row) ?? new Map<string, string[]>();
    this.rows.set(row, cells);
    const answer = [...new Set(answers)].sort().join(' or ');
    if (answer === '') return;
    for (const [other, names] of cells)
      cells.set(
        other,
        names.filter((one) => one !== name),
      );
    cells.set(answer, [...(cells.get(answer) ?? []), name]);
  }

  /** JSON with a line for each answer. */
  text(): string {
    const rows = [...this.rows]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([row, cells]) => {
        const lines = [...cells]
          .filter(([, names]) => names.length > 0)
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .map(([answer, names]) => `    ${JSON.stringify(answer)}: ${JSON.stringify([...names].sort().join(' · '))}`);
        return `  ${JSON.stringify(row)}: {${lines.length > 0 ? `\n${lines.join(',\n')}\n  ` : ''}}`;
      });
    return `{\n${rows.join(',\n')}\n}\n`;
  }
}
