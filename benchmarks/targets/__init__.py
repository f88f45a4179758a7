"""The servers as the load client sees them: the same operation, encoded for each.

configsvc       this service, by gRPC and by REST
etcd            etcd, by gRPC and by its JSON gateway
unleash         Unleash's flag server, which speaks HTTP alone
eureka          Eureka's server, which speaks HTTP alone
"""
