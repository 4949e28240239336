"""What the tiny guest runs: its init, which takes commands, and what it calls.

Only the standard library is used, as in guest_image.py.
"""

INIT = r"""#!/bin/busybox sh
# A step that fails ends init; then the kernel panics and QEMU, run with -no-reboot, ends.
set -e
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/pts
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
# Nothing on the wire that no test asked for: sysctl -w net.ipv6.conf.eth0.disable_ipv6=0 asks for IPv6, and
# has its address at once, without duplicate address detection.
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
for module in /modules/*.ko; do insmod $module; done
ip link set lo up

. /etc/own.sh
# A template is copied further down, where it waits for a command, and each copy becomes a guest when it is told to.
if grep -q vswitch.template /proc/cmdline; then be_nobody; else load_own; become $(cat /proc/cmdline); fi

# Without -f, these programs ask init: by SIGTERM for a reboot, by the others for the end.
trap 'reboot -f' TERM
trap 'poweroff -f' USR1 USR2

# Commands come in as "NUMBER INPUT_SIZE COMMAND", one a line, each followed by INPUT_SIZE bytes, its stdin. COMMAND is
# quoted as $'...'. They run at the same time, each in a shell of its own. When one ends, the line "NUMBER STATUS
# OUT_SIZE ERR_SIZE" goes out and then as many bytes, its stdout and stderr. Until then its output is in files, so
# that neither odd bytes nor a process left running in the background can spoil the framing. For the same reason
# input is read to the byte, before the next line, and by dd, as head -c reads ahead.
# With "-" as its INPUT_SIZE, a command is one for this shell itself, such as become: no process is started for it. What
# it prints goes out only if it fails, so that there are no files to remove, which takes a process, too.
until [ -c /dev/vport0p1 ]; do usleep 5000; done
mkfifo /run/ended
exec 8<>/dev/vport0p1 9<>/run/ended
while read -r number status <&9; do
    if [ $status = ok ]; then echo $number 0 0 0; continue; fi
    set -- /run/$number.out /run/$number.err
    if [ -s $1 ] || [ -s $2 ]; then
        set -- $(stat -c %s $1 $2)
        echo $number $status $1 $2
        [ $1 = 0 ] || head -c $1 /run/$number.out
        [ $2 = 0 ] || head -c $2 /run/$number.err
    else
        echo $number $status 0 0
    fi
    rm /run/$number.*
done >&8 &
while read -r number size command <&8; do
    if [ $size = - ]; then
        status=ok
        eval "$command" >/run/own.out 2>/run/own.err || status=$?
        if [ $status != ok ]; then
            mv /run/own.out /run/$number.out
            mv /run/own.err /run/$number.err
        fi
        echo $number $status >&9
        continue
    fi
    input=/dev/null
    if [ $size != 0 ]; then
        input=/run/$number.in
        dd bs=$size count=1 iflag=fullblock <&8 >$input 2>/dev/null
    fi
    (
        status=0
        eval "sh -c $command" <$input >>/run/$number.out 2>>/run/$number.err 8>&- 9>&- || status=$?
        echo $number $status >&9
    ) &
done
"""

OWN = r"""# What init makes a machine a guest of its own with: everything that is to differ between two of them.
# Its cards and its random numbers begin here. In a clone, each process that is started takes 10 ms or more: the shell
# does what it can. The shell is init, so a step that fails is to return, not to end it.

# The kernel may have insmod wait for the first random numbers: nobody else is to, least of all in a template.
load_own() {
    for module in /modules/own/*.ko; do
        case $module in
            *virtio_rng.ko) insmod $module & ;;
            *) insmod $module ;;
        esac
    done
}

# Takes what is to be each clone's own from a machine that has booted: the cards' driver is loaded, and has no cards.
# The source of random numbers has been asked for some, and answers only in the clone.
be_nobody() {
    own=
    for device in /sys/bus/pci/drivers/virtio-pci/*:*; do
        read -r class <$device/class
        case $class in
            0x020000)
                own="$own ${device##*/}"
                echo ${device##*/} >/sys/bus/pci/drivers/virtio-pci/unbind ;;
        esac
    done
    load_own
}

# vswitch.name=HOST, vswitch.ip=ADDRESS/LENGTH for eth0, vswitch.ip1= for eth1 and so on, vswitch.gateway=ADDRESS for
# the default route, and vswitch.time=SECONDS since 1970.
become() {
    # As they are bound, a clone's cards are reset. Until then they tell the template's addresses.
    for device in $own; do echo $device >/sys/bus/pci/drivers/virtio-pci/bind || return; done
    read -r -n 1 seed </dev/random || :  # returns when there are random numbers
    read -r id </proc/sys/kernel/random/uuid
    echo ${id//-/} >/etc/machine-id
    gateway=
    for word; do
        case $word in
            vswitch.name=*) echo ${word#*=} >/proc/sys/kernel/hostname ;;
            vswitch.time=*) date -s @${word#*=} >/dev/null ;;
            vswitch.gateway=*) gateway=${word#*=} ;;
            vswitch.ip*=*)
                index=${word%%=*}
                index=${index#vswitch.ip}
                ip address add ${word#*=} broadcast + dev eth${index:-0} || return ;;
        esac
    done
    for card in /sys/class/net/eth*; do
        if [ -e $card ]; then echo 0x1003 >$card/flags || return; fi  # up
    done
    if [ $gateway ]; then ip route add default via $gateway || return; fi
}

# A shell on the serial console, for a person. The first setsid leaves a process group's leader, so that the second one
# forks, and this shell goes on; what it starts with & would ignore Ctrl-C.
console() {
    read -r tty </sys/class/tty/console/active
    PS1="$1:\\w# " setsid setsid -c sh -c 'cd; while :; do sh -i; done' </dev/$tty >/dev/$tty 2>&1 8>&- 9>&-
}

# Writes the LAN's names into /etc/hosts, given as ADDRESS NAME and so on, in the place of those written before.
know() {
    others=
    while IFS= read -r line || [ "$line" ]; do
        case $line in
            *"# of the lan") ;;
            *) others=$others$line$'\n' ;;
        esac
    done </etc/hosts
    {
        echo -n "$others"
        while [ $# != 0 ]; do echo "$1 $2 # of the lan"; shift 2; done
    } >/etc/hosts
}
"""

# What /init calls, wherever busybox comes from. Their names are in its table of applets.
APPLETS = (
    *("cat", "date", "dd", "grep", "head", "insmod", "ip", "ln", "mkdir"),
    *("mkfifo", "mount", "mv", "poweroff", "reboot", "rm", "sh", "stat", "usleep"),
)

UDHCPC = r"""#!/bin/sh
# What udhcpc calls when it begins (deconfig) and when it has a lease (bound, renew).
case $1 in
    deconfig)
        ip link set $interface up
        ip -4 address flush dev $interface ;;
    bound | renew)
        ip -4 address flush dev $interface
        ip address add $ip/$mask broadcast ${broadcast:-+} dev $interface
        if [ "$router" ]; then ip route replace default via ${router%% *} dev $interface; fi
        if [ "$domain" ]; then echo search $domain; fi >/etc/resolv.conf
        for server in $dns; do echo nameserver $server; done >>/etc/resolv.conf ;;
esac
"""

ETC = {
    "group": "root:x:0:\n",
    "own.sh": OWN,
    "hosts": "127.0.0.1 localhost\n",
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
}
