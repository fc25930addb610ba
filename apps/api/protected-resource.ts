/**
 * What this API says of itself to whoever wants a token for it (OAuth 2.0 Protected Resource Metadata, RFC 9728): at a
 * tenant's host name, who gives that tenant's tokens. Other hosts are for all tenants, and a name that no active tenant
 * has is told nothing more than those.
 */
import { type Addressed } from '#libs/rest';

export const METADATA_PATH = '/.well-known/oauth-protected-resource';

declare module 'fastify' {
  interface FastifyRequest {
    /** Where the metadata of the API at the host that was asked lies; for WWW-Authenticate. */
    metadataUrl: string | undefined;
  }
}

export interface ResourceMetadata {
  resource: string;
  /** Absent: it depends on the tenant. */
  authorization_servers?: string[];
  bearer_methods_supported: string[];
  resource_name: string;
  resource_documentation: string;
}

export class ProtectedResource {
  private readonly publicScheme: string | undefined;

  constructor(
    /** In memory: nobody's request asks the database for it. */
    private readonly issuersOf: (tenantId: string) => readonly string[],
    /** `api.publicUrl`: whether users come by TLS, where a proxy ends it. */
    publicUrl?: string,
  ) {
    this.publicScheme = publicUrl === undefined ? undefined : new URL(publicUrl).protocol.slice(0, -1);
  }

  /** The API's base URL as the client asked for it; undefined for a request without a host. */
  urlOf({ authority, scheme }: Addressed): string | undefined {
    if (authority === undefined) return undefined;
    const url = `${this.publicScheme ?? scheme}://${authority}`;
    return URL.canParse(url) ? new URL(url).origin : undefined;
  }

  metadataUrlOf(addressed: Addressed): string | undefined {
    const url = this.urlOf(addressed);
    return url === undefined ? undefined : url + METADATA_PATH;
  }

  /** Undefined for a request without a host. */
  metadataOf(addressed: Addressed): ResourceMetadata | undefined {
    const resource = this.urlOf(addressed);
    if (resource === undefined) return undefined;
    const tenantId = addressed.owner?.tenantId;
    const issuers = tenantId ? this.issuersOf(tenantId) : [];
    return {
      resource,
      ...(issuers.length > 0 && { authorization_servers: [...issuers] }),
      bearer_methods_supported: ['header'],
      resource_name: 'Rhyzome',
      resource_documentation: `${resource}/docs`,
    };
  }
}
