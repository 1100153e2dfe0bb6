"""Per-host settings, under the kernel's own names and with its defaults.

Linux keeps one set per network namespace; a ustack host keeps one per stack. Sizes are
bytes, times are in the kernel's units for that name (seconds unless the name says ms).
Source: Linux 6.18, Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Sysctl:
    """Settings of one stack. Change them before or while it runs, as with sysctl(8)."""

    # net.core
    wmem_default: int = 212992
    rmem_default: int = 212992
    wmem_max: int = 4194304
    rmem_max: int = 4194304
    optmem_max: int = 131072
    somaxconn: int = 4096
    # net.ipv4, IP
    ip_default_ttl: int = 64
    ip_local_port_range: tuple[int, int] = (32768, 60999)
    ip_unprivileged_port_start: int = 0  # Linux: 1024; a userspace stack guards no ports
    ip_nonlocal_bind: bool = False
    ipfrag_high_thresh: int = 4194304
    ipfrag_low_thresh: int = 3145728
    ipfrag_time: int = 30
    ipfrag_max_dist: int = 64
    ip6frag_time: int = 60
    icmp_ratelimit: int = 1000  # ms
    icmp_ratemask: int = 0x1818
    icmp_msgs_per_sec: int = 1000
    icmp_msgs_burst: int = 50
    icmp_echo_ignore_all: bool = False
    min_pmtu: int = 552
    mtu_expires: int = 600
    min_adv_mss: int = 256
    igmp_max_memberships: int = 20
    igmp_max_msf: int = 10
    igmp_qrv: int = 2
    igmp_link_local_mcast_reports: bool = True
    force_igmp_version: int = 0
    igmpv2_unsolicited_report_interval: int = 10000  # ms
    igmpv3_unsolicited_report_interval: int = 1000  # ms
    # net.ipv6
    mld_max_msf: int = 64
    mld_qrv: int = 2
    force_mld_version: int = 0
    mldv1_unsolicited_report_interval: int = 10000  # ms
    mldv2_unsolicited_report_interval: int = 1000  # ms
    # net.ipv4, ping
    ping_group_range: tuple[int, int] = (0, 2147483647)  # Linux: (1, 0), nobody
    # net.ipv4, TCP
    tcp_wmem: tuple[int, int, int] = (4096, 16384, 4194304)
    tcp_rmem: tuple[int, int, int] = (4096, 131072, 33554432)
    tcp_timestamps: int = 1
    tcp_sack: bool = True
    tcp_dsack: bool = True
    tcp_window_scaling: bool = True
    tcp_ecn: int = 2
    tcp_fastopen: int = 0
    tcp_syncookies: int = 0  # Linux: 1; cookies are not implemented yet
    tcp_syn_retries: int = 6
    tcp_synack_retries: int = 5
    tcp_syn_linear_timeouts: int = 4
    tcp_retries1: int = 3
    tcp_retries2: int = 15
    tcp_orphan_retries: int = 0
    tcp_fin_timeout: int = 60
    tcp_max_syn_backlog: int = 2048
    tcp_max_tw_buckets: int = 131072
    tcp_max_orphans: int = 131072
    tcp_tw_reuse: int = 2
    tcp_tw_reuse_delay: int = 1000  # ms
    tcp_abort_on_overflow: bool = False
    tcp_rfc1337: bool = False
    tcp_stdurg: bool = False
    tcp_shrink_window: bool = False
    tcp_moderate_rcvbuf: bool = True
    tcp_slow_start_after_idle: bool = True
    tcp_no_metrics_save: bool = True
    tcp_keepalive_time: int = 7200
    tcp_keepalive_intvl: int = 75
    tcp_keepalive_probes: int = 9
    tcp_reordering: int = 3
    tcp_max_reordering: int = 300
    tcp_early_retrans: int = 3
    tcp_recovery: int = 1
    tcp_frto: int = 0  # Linux: 2; F-RTO is not implemented yet
    tcp_thin_linear_timeouts: bool = False
    tcp_notsent_lowat: int = 0xFFFFFFFF
    tcp_autocorking: bool = True
    tcp_limit_output_bytes: int = 4194304
    tcp_min_tso_segs: int = 2
    tcp_tso_win_divisor: int = 3
    tcp_tso_rtt_log: int = 9
    tcp_pacing_ss_ratio: int = 200
    tcp_pacing_ca_ratio: int = 120
    tcp_invalid_ratelimit: int = 500  # ms
    tcp_challenge_ack_limit: int = 0x7FFFFFFF
    tcp_min_snd_mss: int = 48
    tcp_mtu_probing: int = 0
    tcp_base_mss: int = 1024
    tcp_mtu_probe_floor: int = 48
    tcp_probe_interval: int = 600
    tcp_probe_threshold: int = 8
    tcp_rto_min_us: int = 200_000
    tcp_rto_max_ms: int = 120_000
    tcp_min_rtt_wlen: int = 300
    tcp_comp_sack_delay_ns: int = 1_000_000
    tcp_comp_sack_nr: int = 44
    tcp_congestion_control: str = "cubic"
    # ustack's own
    hz: int = 0  # 0: exact timers; else round them up to 1/hz s, as jiffies do
    max_sockets: int = 1_000_000  # EMFILE above
    cap_net_admin: bool = True  # may programs use the privileged options (SO_MARK...)?
