from smtpsvc.plugins import PolicyFactory

delays = PolicyFactory("delays", "delays:make", "delay=TIME", "Ask senders that are new to come back later.")
