// A network path between two network namespaces: delay, rate, queue, loss, silence, and flows
// that are forgotten once idle. It makes both namespaces, with a TUN device `path0` in each, and
// they are gone when it ends. `path.py` runs it; docs/decisions/emulated-path.md says why it is here.
//
// Standard output gets one line for each line of standard input, and one at the start: a JSON
// object of what the path has done. A line of input holds settings, `name=value`, any of:
//   delay=NS     one way                  rate=BITS/S   each way; 0: no limit
//   queue=BYTES  before the rate limit    loss=PART     of the packets, 0 to 1
//   idle=NS      a TCP flow with no packet for longer passes none ever after; 0: never
//   silence=NS   from now on, no packet passes
//   seed=N       of the losses
// It ends at the end of its input.
//
// Hosts hand over packets of up to 64 KiB (TSO), as to a network card. On the path they are
// single segments, each of which takes its time on the link, fills the queue and may be lost;
// the neighbours among those that arrive are joined again, as a receiving card does (GRO).
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define LARGEST 65536   // an IP packet
#define JOINED 16       // segments handed over together at most: 0.2 ms at 1 Gbit/s
#define AT_ONCE 64      // packets taken or given in a turn
#define FRAME sizeof(struct virtio_net_hdr)
enum { CLIENT, SERVER };

struct packet {
    struct packet *next;
    int64_t due;
    int size;
    uint8_t bytes[];
};

// One direction, by the side that its packets come from. They leave in the order they came in.
struct way {
    int from, to;
    struct packet *first, **end;
    int64_t link_free, last_due;
    uint64_t chance;
    unsigned long packets, segments, bytes, queue_drops, losses, silenced, forgotten, unwritten;
};

struct flow {
    int64_t last_packet;
    bool dead;
};

static struct {
    int64_t delay, queue, idle, silent_until;
    double rate, loss;
} set = {.queue = 1 << 30};
static struct way ways[2];
static struct flow flows[65536]; // by the client's port: the kernel hardly ever has two alike

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

// The next of a sequence of numbers in [0, 1) (splitmix64).
static double draw(struct way *way)
{
    uint64_t z = way->chance += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return ((z ^ z >> 31) >> 11) * 0x1p-53;
}

static int open_namespace(int *tun)
{
    if (unshare(CLONE_NEWNET))
        fail("a new network namespace");
    struct ifreq request = {.ifr_name = "path0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    *tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (*tun < 0 || ioctl(*tun, TUNSETIFF, &request) ||
        ioctl(*tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4))
        fail("/dev/net/tun");
    return open("/proc/self/ns/net", O_RDONLY);
}

static void append(struct way *way, struct packet *packet, int64_t due)
{
    packet->due = due;
    packet->next = NULL;
    *way->end = packet;
    way->end = &packet->next;
}

static void set_ip_length(uint8_t *ip, int header, int length, int id_step)
{
    struct iphdr *fields = (struct iphdr *)ip;
    fields->tot_len = htons(length);
    fields->id = htons(ntohs(fields->id) + id_step);
    fields->check = 0;
    uint32_t sum = 0;
    for (int at = 0; at < header; at += 2)
        sum += ip[at] << 8 | ip[at + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    fields->check = htons(~sum);
}

// A TCP packet of many segments.
struct large {
    const uint8_t *frame;
    int ip_header, headers, payload, segment, count;
};

static int payload_of(const struct large *packet, int first, int count)
{
    int from = first * packet->segment, to = from + count * packet->segment;
    return (to < packet->payload ? to : packet->payload) - from;
}

// Some of its segments as a packet. Checksums of TCP are left to the receiver, which trusts them.
static struct packet *part_of(const struct large *packet, int first, int count)
{
    int payload = payload_of(packet, first, count), from = first * packet->segment;
    struct packet *part = malloc(sizeof *part + FRAME + packet->headers + payload);
    part->size = FRAME + packet->headers + payload;
    memcpy(part->bytes, packet->frame, FRAME + packet->headers);
    memcpy(part->bytes + FRAME + packet->headers, packet->frame + FRAME + packet->headers + from,
           payload);
    set_ip_length(part->bytes + FRAME, packet->ip_header, packet->headers + payload, first);
    struct tcphdr *tcp = (struct tcphdr *)(part->bytes + FRAME + packet->ip_header);
    tcp->th_seq = htonl(ntohl(tcp->th_seq) + from);
    if (first > 0)
        tcp->th_flags &= ~0x80; // CWR
    if (first + count < packet->count)
        tcp->th_flags &= ~(TH_FIN | TH_PUSH);
    if (count == 1) {
        struct virtio_net_hdr *offload = (struct virtio_net_hdr *)part->bytes;
        offload->gso_type = VIRTIO_NET_HDR_GSO_NONE;
        offload->gso_size = 0;
    }
    return part;
}

// Put a segment on the link. Returns when it arrives, or 0 if it does not.
static int64_t transmit(struct way *way, int64_t now, int size)
{
    way->segments++;
    int64_t begins = way->link_free > now ? way->link_free : now, ends = begins;
    if (set.rate > 0) {
        if ((begins - now) * set.rate / 8e9 + size > set.queue) {
            way->queue_drops++;
            return 0;
        }
        ends = way->link_free = begins + (int64_t)(size * 8e9 / set.rate);
    }
    way->bytes += size;
    if (set.loss > 0 && draw(way) < set.loss) {
        way->losses++;
        return 0;
    }
    if (ends + set.delay > way->last_due) // else the delay was made shorter, and order stays
        way->last_due = ends + set.delay;
    return way->last_due;
}

static void send_large(struct way *way, int64_t now, const struct large *packet)
{
    int first = 0;
    int64_t due = 0;
    for (int at = 0; at <= packet->count; at++) {
        bool over = at == packet->count;
        int size = over ? 0 : packet->headers + payload_of(packet, at, 1);
        int64_t arrives = over ? 0 : transmit(way, now, size);
        if (at > first && (!arrives || at - first == JOINED)) {
            append(way, part_of(packet, first, at - first), due);
            first = at;
        }
        if (!arrives)
            first = at + 1;
        due = arrives;
    }
}

static void send_single(struct way *way, int64_t now, const uint8_t *frame, int size)
{
    int64_t due = transmit(way, now, size - FRAME);
    if (!due)
        return;
    struct packet *packet = malloc(sizeof *packet + size);
    packet->size = size;
    memcpy(packet->bytes, frame, size);
    append(way, packet, due);
}

// Whether the path has forgotten the flow of this TCP packet. A SYN begins it anew.
static bool is_forgotten(int side, const struct tcphdr *tcp, int64_t now)
{
    struct flow *flow = &flows[ntohs(side == CLIENT ? tcp->th_sport : tcp->th_dport)];
    if (side == CLIENT && (tcp->th_flags & (TH_SYN | TH_ACK)) == TH_SYN)
        *flow = (struct flow){.last_packet = now};
    if (set.idle && now - flow->last_packet > set.idle)
        flow->dead = true;
    if (!flow->dead)
        flow->last_packet = now;
    return flow->dead;
}

static void take(int side, const uint8_t *frame, int size, int64_t now)
{
    struct way *way = &ways[side];
    const struct virtio_net_hdr *offload = (const struct virtio_net_hdr *)frame;
    const struct iphdr *ip = (const struct iphdr *)(frame + FRAME);
    if (size < (int)(FRAME + sizeof *ip) || ip->version != 4)
        return; // what IPv6 says to itself
    way->packets++;
    if (now < set.silent_until) {
        way->silenced++;
        return;
    }
    int ip_header = ip->ihl * 4;
    if (ip->protocol == IPPROTO_TCP) {
        const struct tcphdr *tcp = (const struct tcphdr *)(frame + FRAME + ip_header);
        if (is_forgotten(side, tcp, now)) {
            way->forgotten++;
            return;
        }
        if (offload->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
            int headers = ip_header + tcp->th_off * 4, payload = size - FRAME - headers;
            int segment = offload->gso_size, count = (payload + segment - 1) / segment;
            send_large(way, now,
                       &(struct large){frame, ip_header, headers, payload, segment, count});
            return;
        }
    }
    send_single(way, now, frame, size);
}

static void receive(int side)
{
    static uint8_t frame[FRAME + LARGEST];
    for (int turn = 0; turn < AT_ONCE; turn++) {
        int size = read(ways[side].from, frame, sizeof frame);
        if (size <= 0)
            return;
        take(side, frame, size, now_ns());
    }
}

static void deliver(struct way *way, int64_t now)
{
    for (int turn = 0; turn < AT_ONCE && way->first && way->first->due <= now; turn++) {
        struct packet *packet = way->first;
        if (!(way->first = packet->next))
            way->end = &way->first;
        if (write(way->to, packet->bytes, packet->size) < 0)
            way->unwritten++;
        free(packet);
    }
}

static void apply(char *name, double value)
{
    if (!strcmp(name, "delay")) set.delay = value;
    else if (!strcmp(name, "rate")) set.rate = value;
    else if (!strcmp(name, "queue")) set.queue = value;
    else if (!strcmp(name, "loss")) set.loss = value;
    else if (!strcmp(name, "idle")) set.idle = value;
    else if (!strcmp(name, "silence")) set.silent_until = now_ns() + (int64_t)value;
    else if (!strcmp(name, "seed")) ways[SERVER].chance = ~(ways[CLIENT].chance = value);
    else {
        fprintf(stderr, "no such setting: %s\n", name);
        exit(1);
    }
}

static void tell(void)
{
    const char *names[] = {"up", "down"};
    for (int side = 0; side < 2; side++) {
        struct way *way = &ways[side];
        printf("%s\"%s\": {\"packets\": %lu, \"segments\": %lu, \"bytes\": %lu, "
               "\"queue_drops\": %lu, \"losses\": %lu, \"silenced\": %lu, \"forgotten\": %lu, "
               "\"unwritten\": %lu}",
               side ? ", " : "{", names[side], way->packets, way->segments, way->bytes,
               way->queue_drops, way->losses, way->silenced, way->forgotten, way->unwritten);
    }
    printf("}\n");
    fflush(stdout);
}

static void obey(void)
{
    char line[512], *rest = NULL; // its owner writes no longer ones, each at once
    int size = read(STDIN_FILENO, line, sizeof line - 1);
    if (size <= 0)
        exit(0);
    line[size] = 0;
    for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
        char *value = strchr(word, '=');
        if (value) {
            *value = 0;
            apply(word, atof(value + 1));
        }
    }
    tell();
}

static void wait_for_work(struct pollfd *watched)
{
    int64_t wait = 3600 * 1000000000LL, now = now_ns();
    for (int side = 0; side < 2; side++)
        if (ways[side].first && ways[side].first->due - now < wait)
            wait = ways[side].first->due > now ? ways[side].first->due - now : 0;
    struct timespec limit = {wait / 1000000000, wait % 1000000000};
    ppoll(watched, 3, &limit, NULL);
}

int main(void)
{
    int namespaces[2], tuns[2];
    for (int side = 0; side < 2; side++) {
        namespaces[side] = open_namespace(&tuns[side]);
        ways[side].end = &ways[side].first;
    }
    for (int side = 0; side < 2; side++) {
        ways[side].from = tuns[side];
        ways[side].to = tuns[1 - side];
    }
    prctl(PR_SET_TIMERSLACK, 1000); // 1 us
    // Ahead of other programs, where that is allowed: a late packet is a longer delay.
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 10});
    printf("{\"client\": %d, \"server\": %d}\n", namespaces[CLIENT], namespaces[SERVER]);
    fflush(stdout);
    struct pollfd watched[] = {
        {.fd = tuns[CLIENT], .events = POLLIN},
        {.fd = tuns[SERVER], .events = POLLIN},
        {.fd = STDIN_FILENO, .events = POLLIN},
    };
    for (;;) {
        wait_for_work(watched);
        for (int side = 0; side < 2; side++)
            if (watched[side].revents)
                receive(side);
        if (watched[2].revents)
            obey();
        for (int side = 0; side < 2; side++)
            deliver(&ways[side], now_ns());
    }
}
