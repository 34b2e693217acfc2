"""Valid documents to start from."""

ROUTES = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {name: NAME, namespace: shop}
spec:
  gateway: platform/edge
  backends:
    - name: web
      members:
        - static: {address: 127.0.0.1, port: 8080}
  routes:
    - name: root
      hosts: [NAME.example.com]
      match:
        - path: {prefix: /}
      public: true
      to:
        - backend: web
"""

GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - name: https
      port: 443
      protocol: HTTPS
      tls:
        - hosts: [shop.example.com]
          certificate: {secretRef: shop-tls}
    - {name: http, port: 80, protocol: HTTP}
  identity:
    jwt:
      - name: corp
        issuer: https://id.example.com/
        audiences: [shop]
        jwks: {uri: https://id.example.com/jwks.json, cache: 10m}
        claimsToHeaders: {sub: x-user-id}
  policies:
    - name: web-cors
      cors: {origins: ["https://shop.example.com"], maxAge: 10m}
    - name: burst
      rateLimit: {local: [{key: clientIP, requests: 10, per: second}]}
  backends:
    - name: web
      members: [{dns: {host: web.internal, port: 8080}}]
  routes:
    - name: web
      hosts: [shop.example.com]
      match:
        - path: {prefix: /}
          methods: [GET]
      auth: {anyOf: [{jwt: corp}]}
      use: [web-cors, burst]
      timeouts: {request: 15s}
      retry: {attempts: 2, when: [5xx]}
      to: [{backend: web}]
"""


def routes(name: str, port: int = 8080) -> str:
    """A RouteSpec `shop/<name>`."""
    return ROUTES.replace("NAME", name).replace("8080", str(port))


def file(*documents: str) -> str:
    """One file of several documents."""
    return "---\n".join(documents)
