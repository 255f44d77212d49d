use super::*;
use crate::cli::samples::status;

#[test]
fn status_fits_eighty_columns() {
    let expected = "\
daemon (process 4711, silmaril 0.1.0, up 1h 2m 5s)
base directory  /home/ada/.silmaril
mounted on      /home/ada/models
endpoint        http://127.0.0.1:8910, sending 1 file
endpoint        not served: cannot listen on 127.0.0.1:8910: another program
                uses the port
metrics         http://127.0.0.1:9100/metrics
metrics         not served: cannot listen on 127.0.0.1:9100: another program
                uses the port
listening on    192.0.2.7:40123, [2001:db8::7]:40123
catalog         1204 records, 3 peers, 212 DHT nodes
for a command   get acme/minilm (since 1m 1s, 50% of 100 B)
no space        2 files read through memory: 1.00 MiB free on the disk of the
                cache, 1.00 GiB stay free (cache.min_free)
not looked up   17 unknown names of python3 (process 99), beyond
                mount.max_lookups (5s ago)
not shown       acme/absent: no peer that was asked knows it (5s ago)
                read /home/ada/models/.by/x/acme/absent
disputed        acme/disputed: published by dora (eb6p-x112-rg3z-pv89),
                ep3q-qd0x-74xn-ze25, cj5a-bhbs-zcrf-72qq
                the mount shows dora (eb6p-x112-rg3z-pv89), read before, until
                it is unmounted
                read /home/ada/models/.by/x/acme/disputed
refused         acme/false: the manifest of eb6p-x112-rg3z-pv89 contradicts the
                hub: w.bin has 5 bytes in the manifest and 6 at the hub
problem         acme/on-disk: /media/ada/disk/on-disk: it is absent, so the
                model is not offered from there: No such file or directory
                help: connect its disk or move it back, and it is offered again
                by itself
from the hub    acme/lazy: 0% of 500 MiB here, 1.00 MiB received; waiting: 2
                reads; the hub has a newer commit
                hub.example answered 429 Too Many Requests
stalled         sentence-transformers/all-MiniLM-L6-v2/onnx/model_quantized.onnx:
                3 reads wait (since 2m 5s)
                1 peer is connected, but no peer that has the piece sends
                anything; and over HTTP: hub.example answered 503 Service
                Unavailable
last error      sentence-transformers/all-MiniLM-L6-v2: a peer sent bad data (1
                piece discarded)

MODEL                                       SIZE  HERE        DOWN     UP
acme/minilm                             87.4 MiB    9%  1.24 MiB/s  0 B/s
    peers (full) 2 (1)  from peers 8.01 MiB  sent 0 B
sentence-transformers/all-MiniLM-L6-v2  87.4 MiB    9%  1.24 MiB/s  0 B/s
    peers (full) 1 (0)  reads waiting 3  from peers 8.01 MiB  from web 64.0 KiB
    sent 0 B  trust pinned  runs code python";
    assert_eq!(of(&status(), Some(80)).join("\n"), expected);
}

#[test]
fn status_fits_two_hundred_columns() {
    let expected = "\
daemon (process 4711, silmaril 0.1.0, up 1h 2m 5s)
base directory  /home/ada/.silmaril
mounted on      /home/ada/models
endpoint        http://127.0.0.1:8910, sending 1 file
endpoint        not served: cannot listen on 127.0.0.1:8910: another program uses the port
metrics         http://127.0.0.1:9100/metrics
metrics         not served: cannot listen on 127.0.0.1:9100: another program uses the port
listening on    192.0.2.7:40123, [2001:db8::7]:40123
catalog         1204 records, 3 peers, 212 DHT nodes
for a command   get acme/minilm (since 1m 1s, 50% of 100 B)
no space        2 files read through memory: 1.00 MiB free on the disk of the cache, 1.00 GiB stay free (cache.min_free)
not looked up   17 unknown names of python3 (process 99), beyond mount.max_lookups (5s ago)
not shown       acme/absent: no peer that was asked knows it (5s ago)
                read /home/ada/models/.by/x/acme/absent
disputed        acme/disputed: published by dora (eb6p-x112-rg3z-pv89), ep3q-qd0x-74xn-ze25, cj5a-bhbs-zcrf-72qq
                the mount shows dora (eb6p-x112-rg3z-pv89), read before, until it is unmounted
                read /home/ada/models/.by/x/acme/disputed
refused         acme/false: the manifest of eb6p-x112-rg3z-pv89 contradicts the hub: w.bin has 5 bytes in the manifest and 6 at the hub
problem         acme/on-disk: /media/ada/disk/on-disk: it is absent, so the model is not offered from there: No such file or directory
                help: connect its disk or move it back, and it is offered again by itself
from the hub    acme/lazy: 0% of 500 MiB here, 1.00 MiB received; waiting: 2 reads; the hub has a newer commit
                hub.example answered 429 Too Many Requests
stalled         sentence-transformers/all-MiniLM-L6-v2/onnx/model_quantized.onnx: 3 reads wait (since 2m 5s)
                1 peer is connected, but no peer that has the piece sends anything; and over HTTP: hub.example answered 503 Service Unavailable
last error      sentence-transformers/all-MiniLM-L6-v2: a peer sent bad data (1 piece discarded)

MODEL                                       SIZE  HERE        DOWN     UP  PEERS (FULL)  READS WAITING  FROM PEERS  FROM WEB  SENT  TRUST   RUNS CODE
acme/minilm                             87.4 MiB    9%  1.24 MiB/s  0 B/s         2 (1)              -    8.01 MiB         -   0 B  -       -
sentence-transformers/all-MiniLM-L6-v2  87.4 MiB    9%  1.24 MiB/s  0 B/s         1 (0)              3    8.01 MiB  64.0 KiB   0 B  pinned  python";
    assert_eq!(of(&status(), Some(200)).join("\n"), expected);
}
