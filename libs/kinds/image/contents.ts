/**
 * Where this process keeps the contents of images and what it lets in. Kinds are made from static manifests, so the process
 * says it once at its start; one that serves no images (no `storage` in its settings) says nothing.
 */
import { RhyzomeError } from '#libs/core';
import { type ContentStore, DirectoryStore, SourceGuard, type SourceRules } from '#libs/storage';

export interface ImageContents {
  store: ContentStore;
  guard: SourceGuard;
  /** Of one content. */
  maxBytes: number;
  /** Of the disk that a content says it is. */
  maxVirtualBytes: number;
  /** Where a content of the store, or a part of one, lies on this machine; for qemu-img. */
  partPath(operationId: string): string;
}

export interface ImageSettings {
  maxSizeGiB: number;
  maxVirtualSizeGiB: number;
  deniedSources: readonly string[];
  allowedSources: readonly string[];
}

let provided: ImageContents | undefined;

/** As the settings say; `dir` is the folder of the content store. */
export function openImageContents(dir: string, settings: ImageSettings): ImageContents {
  const store = new DirectoryStore(dir);
  const rules: SourceRules = { denied: settings.deniedSources, allowed: settings.allowedSources };
  return {
    store,
    guard: new SourceGuard(rules),
    maxBytes: settings.maxSizeGiB * 2 ** 30,
    maxVirtualBytes: settings.maxVirtualSizeGiB * 2 ** 30,
    partPath: (operationId) => store.parts.path(operationId),
  };
}

/** Says which contents this process works with; undefined: none. */
export function provideImageContents(contents: ImageContents | undefined): void {
  provided = contents;
}

/** Throws RhyzomeError `content_store_unavailable` where none are provided. */
export function imageContents(): ImageContents {
  if (provided) return provided;
  throw new RhyzomeError(
    'content_store_unavailable',
    'This installation keeps no images of tenants (“storage” is not set).',
  );
}

/** SQLSTATE-like names of errors that are the disk's or the share's, not the request's. */
const storeFailures = new Set(['ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'ESTALE', 'EACCES', 'ENOTCONN', 'EHOSTDOWN']);

/** A failure of the store's disk as its refusal; anything else as it is. */
export function asStoreFailure(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (!storeFailures.has(code ?? '')) return error;
  const what = code === 'ENOSPC' || code === 'EDQUOT' ? 'is full' : 'cannot be written now';
  return new RhyzomeError(
    'content_store_unavailable',
    `The content store ${what}; what has arrived is kept. Try again later.`,
    {
      retryAfterSeconds: 30,
      cause: error,
    },
  );
}
