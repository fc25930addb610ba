/**
 * Hands the credentials of libs/pki to gRPC, now and whenever they change: new handshakes get the new certificate,
 * connections that stand go on. Client certificates are always asked for and always verified against the CA.
 */
import * as grpc from '@grpc/grpc-js';
import { type CredentialsSource, checkAnyServer, checkServer } from '#libs/pki';

type CaListener = Parameters<grpc.experimental.CertificateProvider['addCaCertificateListener']>[0];
type IdentityListener = Parameters<grpc.experimental.CertificateProvider['addIdentityCertificateListener']>[0];

class SourceCertificateProvider implements grpc.experimental.CertificateProvider {
  private readonly ends = new Map<CaListener | IdentityListener, () => void>();

  constructor(private readonly source: CredentialsSource) {}

  addCaCertificateListener(listener: CaListener): void {
    this.follow(listener, () => listener({ caCertificate: this.source.current.ca }));
  }

  addIdentityCertificateListener(listener: IdentityListener): void {
    this.follow(listener, () => {
      const { cert, key } = this.source.current;
      listener({ certificate: cert, privateKey: key });
    });
  }

  removeCaCertificateListener(listener: CaListener): void {
    this.unfollow(listener);
  }

  removeIdentityCertificateListener(listener: IdentityListener): void {
    this.unfollow(listener);
  }

  private follow(listener: CaListener | IdentityListener, tell: () => void): void {
    this.ends.set(listener, this.source.subscribe(tell));
    // Not at once: grpc-js registers its own watcher after this call, and would miss the first set.
    queueMicrotask(() => {
      if (this.ends.has(listener)) tell();
    });
  }

  private unfollow(listener: CaListener | IdentityListener): void {
    this.ends.get(listener)?.();
    this.ends.delete(listener);
  }
}

/** For a server: mutual TLS (1.2 or newer, Node's default) with the interceptors given. */
export function serverCredentials(
  source: CredentialsSource,
  interceptors: grpc.ServerInterceptor[] = [],
): grpc.ServerCredentials {
  const provider = new SourceCertificateProvider(source);
  const credentials = grpc.experimental.createCertificateProviderServerCredentials(provider, provider, true);
  return grpc.experimental.createServerCredentialsWithInterceptors(credentials, interceptors);
}

/** For a server that strangers may call: TLS with this certificate, and none asked for. */
export function openServerCredentials(
  source: CredentialsSource,
  interceptors: grpc.ServerInterceptor[] = [],
): grpc.ServerCredentials {
  // grpc-js takes the server's own certificate first, whatever its types call the parameters.
  const provider = new SourceCertificateProvider(source);
  const credentials = grpc.experimental.createCertificateProviderServerCredentials(provider, null, false);
  return grpc.experimental.createServerCredentialsWithInterceptors(credentials, interceptors);
}

/**
 * For a client that knows no CA yet: whoever answers is believed nothing, and must be told nothing that is secret. With a
 * CA: the other side must carry the name dialled and be a server, of whatever trust domain.
 */
export function strangerCredentials(ca?: string): grpc.ChannelCredentials {
  if (ca === undefined) {
    const options = { rejectUnauthorized: false, checkServerIdentity: () => undefined };
    return grpc.credentials.createSsl(null, null, null, options);
  }
  return grpc.credentials.createSsl(Buffer.from(ca), null, null, { checkServerIdentity: checkAnyServer });
}

/** For a client: the other side must carry the name dialled and be a server of the same trust domain. */
export function channelCredentials(source: CredentialsSource): grpc.ChannelCredentials {
  const provider = new SourceCertificateProvider(source);
  return grpc.experimental.createCertificateProviderChannelCredentials(provider, provider, {
    checkServerIdentity: (host, certificate) =>
      checkServer(host, certificate, source.current.identity.trustDomain, (shown) => source.refusalOf?.(shown)),
  });
}
