output "disks_toml" {
  description = "The table [disks] for perdure.toml; the order is that of the seats."
  value       = <<-EOT
    [disks]
    addresses = [${join(", ", [for name in keys(var.seats) : "\"tcp:${var.seats[name].private_ip}:7001\""])}]
    zones = [${join(", ", [for name in keys(var.seats) : "\"${local.zones[name]}\""])}]
  EOT
}

output "instances" {
  description = "Which instance has which seat."
  value       = { for name, instance in aws_instance.disk : name => instance.id }
}
