/** What is kept of an image, and what its user may set of it. */
import type { CoreDocument, CoreRow } from '#libs/resources';

export interface ImageDocument extends CoreDocument {
  osInfo?: Record<string, string>;
  visibility?: 'global' | 'published' | 'private';
  sourceUrl?: string;
  snapshot?: string;
  sha256?: string;
  sizeBytes?: number;
  format?: 'qcow2' | 'raw';
}

export interface ImageRow extends CoreRow {
  visibility: 'global' | 'published' | 'private';
  publisher_name: string | null;
  source: 'import' | 'upload' | 'url' | 'snapshot';
  source_url: string | null;
  source_snapshot_id: string | null;
  announced_sha256: string | null;
  announced_size_bytes: number | null;
  announced_format: 'qcow2' | 'raw' | null;
  operation_id: string | null;
  format: 'qcow2' | 'raw' | null;
  size_bytes: number | null;
  virtual_size_bytes: number | null;
  sha256: string | null;
  os_info: Record<string, string>;
}
